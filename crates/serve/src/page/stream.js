// Talks with the server: what it is, and answers as they are written. It must not know the page.

/// The server said no.
export class Refusal extends Error {
  constructor(status, message, retrySeconds) {
    super(message);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

/// The connection broke, or there was none.
export class Lost extends Error {}

/// Relative to the page, so that the server may stand behind any path.
const address = (path) => new URL(path, document.baseURI);

const headers = (key) => (key ? { authorization: `Bearer ${key}` } : {});

/// The JSON at a path.
export async function get(path, key) {
  let response;
  try {
    response = await fetch(address(path), { headers: headers(key) });
  } catch (error) {
    throw new Lost(error.message);
  }
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/// Asks for an answer, and calls `each` with every chunk of it.
export async function answer(body, key, signal, each) {
  let response;
  try {
    response = await fetch(address("v1/chat/completions"), {
      method: "POST",
      headers: { "content-type": "application/json", ...headers(key) },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Lost("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", isWhole = false;
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Lost("The connection was lost.");
    }
    if (read.done) break;
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") {
        isWhole = true;
        continue;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(500, chunk.error.message ?? String(chunk.error));
      isWhole ||= Boolean(chunk.choices?.[0]?.finish_reason);
      each(chunk);
    }
  }
  if (!isWhole) throw new Lost("The connection was lost.");
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let message = text.slice(0, 300);
  try {
    const error = JSON.parse(text).error;
    message = error.message ?? String(error);
  } catch {
    // Then it is what it is: a proxy's page, or nothing.
  }
  const after = Number(response.headers.get("retry-after"));
  const retrySeconds = Number.isFinite(after) && after > 0 ? Math.min(after, 600) : null;
  return new Refusal(response.status, message || `The server answered ${response.status}.`, retrySeconds);
}
