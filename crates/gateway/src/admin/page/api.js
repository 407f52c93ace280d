// The gateway's interface for those who run it, with the key that this tab was given.

const KEY = "fungible.admin.key";

export class Refused extends Error {}

export class Interface {
  #key = sessionStorage.getItem(KEY) ?? "";

  get hasKey() {
    return this.#key !== "";
  }

  remember(key) {
    this.#key = key;
    sessionStorage.setItem(KEY, key);
  }

  forget() {
    this.#key = "";
    sessionStorage.removeItem(KEY);
  }

  get(path) {
    return this.#ask(path, { method: "GET" });
  }

  post(path, body) {
    return this.#ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  }

  async #ask(path, { headers, ...request }) {
    const response = await fetch(`admin/api/${path}`, {
      ...request,
      headers: { ...headers, authorization: `Bearer ${this.#key}` },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(10000),
    });
    if (response.status === 401) throw new Refused("This key does not open the page.");
    const answer = await response.json();
    if (!response.ok) throw new Error(answer?.error?.message ?? `the gateway answered ${response.status}`);
    return answer;
  }
}
