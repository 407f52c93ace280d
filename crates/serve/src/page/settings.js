// The settings: fields in a drawer, values in this browser, parameters of a request. What is left
// empty is not sent, so the server's own defaults hold.

const KEY = "fungible.settings";

const FIELDS = [
  { key: "temperature", label: "Temperature", hint: "0 is the likeliest every time", min: 0, max: 5 },
  { key: "max_tokens", label: "Longest answer", hint: "in tokens", min: 1, whole: true },
  { key: "top_p", label: "Top p", hint: "likeliest up to this share", min: 0, max: 1 },
  { key: "top_k", label: "Top k", hint: "so many likeliest, 0 for all", min: 0, whole: true },
  { key: "min_p", label: "Min p", hint: "at least this likely, of the best", min: 0, max: 1 },
  { key: "seed", label: "Seed", hint: "the same gives the same text", min: 0, whole: true },
  { key: "presence_penalty", label: "Presence penalty", hint: "for what was said", min: -2, max: 2 },
  { key: "frequency_penalty", label: "Frequency penalty", hint: "for each time it was", min: -2, max: 2 },
  { key: "repetition_penalty", label: "Repetition penalty", hint: "1 is none", min: 0.01, max: 10 },
];

export class Settings {
  constructor() {
    this.values = {};
    try {
      this.values = JSON.parse(localStorage.getItem(KEY)) ?? {};
    } catch {
      // Damaged or forbidden: begin with none.
    }
    this.system = document.getElementById("system");
    this.apiKey = document.getElementById("api-key");
    this.inputs = new Map();
    for (const field of FIELDS) this.inputs.set(field, this.add(field));
    this.system.addEventListener("input", () => this.set("system", this.system.value));
    this.apiKey.addEventListener("input", () => this.set("key", this.apiKey.value.trim()));
    document.getElementById("reset").addEventListener("click", () => {
      this.values = { key: this.values.key };
      this.store();
      this.show();
    });
    this.show();
  }

  get key() {
    return this.values.key ?? "";
  }

  set(key, value) {
    if (value === "" || value === null) delete this.values[key];
    else this.values[key] = value;
    this.store();
  }

  setKey(value) {
    this.set("key", value.trim());
    this.show();
  }

  /// What goes into a request.
  parameters() {
    const known = FIELDS.filter(({ key }) => typeof this.values[key] === "number");
    return Object.fromEntries(known.map(({ key }) => [key, this.values[key]]));
  }

  get systemPrompt() {
    return (this.values.system ?? "").trim();
  }

  add(field) {
    const label = document.createElement("label");
    label.className = "field";
    const name = document.createElement("span");
    name.textContent = field.label;
    const hint = document.createElement("small");
    hint.textContent = field.hint;
    const input = document.createElement("input");
    Object.assign(input, { type: "number", min: field.min, max: field.max ?? "", step: field.whole ? 1 : "any" });
    input.inputMode = field.whole ? "numeric" : "decimal";
    input.name = field.key;
    input.placeholder = "default";
    input.addEventListener("input", () => {
      const isUsable = input.value !== "" && input.checkValidity();
      this.set(field.key, isUsable ? input.valueAsNumber : null);
    });
    label.append(name, input, hint);
    document.getElementById("sampling").append(label);
    return input;
  }

  show() {
    this.system.value = this.values.system ?? "";
    this.apiKey.value = this.key;
    for (const [field, input] of this.inputs) input.value = this.values[field.key] ?? "";
  }

  store() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.values));
    } catch {
      // They hold for as long as the page is open.
    }
  }
}
