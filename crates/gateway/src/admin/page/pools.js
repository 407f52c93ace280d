// Pools and their backends: who is well, why others are not, how fast, at what price.

import { keyed, make, row, setClass, setText, table } from "./dom.js";
import { age, number, percent, seconds, usd } from "./format.js";

const COLUMNS = [["Backend"], ["State"], ["Under way", true], ["First token p50", true], ["p99", true],
  ["Per token p50", true], ["Failed", true], [""]];

const STATES = {
  well: "well",
  ill: "ill",
  open: "circuit open",
  "half-open": "on trial",
  draining: "draining",
};

/// What is shown of a backend besides figures: its state in a word, and a sentence if it is not well.
function stateCell(cell) {
  const mark = make("span", { class: "mark", "aria-hidden": "true" });
  const word = make("span");
  const why = make("span", { class: "why" });
  cell.append(make("span", { class: "state-word" }, mark, word), why);
  return ({ state, why: reason }) => {
    cell.dataset.state = state;
    setText(word, STATES[state] ?? state);
    setText(why, state === "well" ? "" : (reason ?? ""));
  };
}

function backend(drain) {
  let showState;
  let button;
  const made = row(COLUMNS, (cells, { item, objective }) => {
    showState ??= stateCell(cells[1]);
    if (!button) {
      button = make("button", { type: "button", class: "small" });
      cells[7].append(button);
    }
    setText(cells[0], item.name);
    cells[0].title = item.url;
    showState(item);
    setText(cells[2], item.concurrency ? `${number(item.in_flight)} of ${number(item.concurrency)}` : number(item.in_flight));
    setText(cells[3], seconds(item.ttft_p50_seconds));
    setText(cells[4], seconds(item.ttft_p99_seconds));
    for (const [cell, value] of [[cells[3], item.ttft_p50_seconds], [cells[4], item.ttft_p99_seconds]]) {
      const is = Boolean(objective) && value > objective;
      setClass(cell, "over", is);
      cell.title = is ? `over the objective of ${seconds(objective)}` : "";
    }
    setText(cells[5], seconds(item.tpot_p50_seconds));
    setText(cells[6], percent(item.failure_share));
    const isDraining = item.state === "draining";
    setText(button, isDraining ? "Take back" : "Drain");
    button.setAttribute("aria-label", `${button.textContent} ${item.name}`);
    button.onclick = () => drain(item.name, !isDraining);
  });
  return made;
}

function fact(name) {
  const value = make("dd");
  return { node: make("div", {}, make("dt", {}, name), value), value };
}

function card(drain) {
  const title = make("h3");
  const chips = make("p", { class: "quiet" });
  const health = make("p", { class: "health" });
  const facts = ["Price", "Age of price", "Million tokens in", "Million tokens out", "Share of requests", "Requests/s",
    "Tokens/s", "Objective, first token"].map(fact);
  const backends = make("table");
  const shown = table(backends, "Backends", COLUMNS, "This pool has no backend.");
  const id = `pool-${Math.random().toString(36).slice(2)}`;
  title.id = id;
  const node = make("article", { class: "panel pool", "aria-labelledby": id },
    make("div", { class: "head" }, make("div", {}, title, chips), health),
    make("dl", { class: "facts" }, ...facts.map((one) => one.node)),
    make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Backends" }, backends));
  const update = ({ pool, objective }) => {
    setText(title, pool.name);
    const what = pool.chip ? `${number(pool.chips)} × ${pool.chip}` : "";
    setText(chips, [what, pool.provider, pool.region].filter(Boolean).join(" · "));
    const well = pool.backends.filter((one) => one.state === "well").length;
    const all = pool.backends.length;
    setText(health, well === all ? (all === 1 ? "well" : `all ${all} well`) : `${well} of ${all} well`);
    health.dataset.state = well === all && all ? "well" : well ? "half-open" : "ill";
    const price = pool.price || "unknown";
    const old = pool.price_age_seconds;
    const texts = [price, old === null || old === undefined ? "from the config" : age(old) + (pool.is_price_stale ? ", too old to steer" : ""),
      usd(pool.usd_per_million_input), usd(pool.usd_per_million_output), percent(pool.share),
      number(pool.requests_per_second), number(pool.tokens_per_second), objective ? seconds(objective) : "none"];
    facts.forEach((one, at) => setText(one.value, texts[at]));
    setClass(facts[1].value, "over", Boolean(pool.is_price_stale));
    shown.show(pool.backends.map((item) => ({ item, objective })), ({ item }) => item.name, () => backend(drain));
  };
  return { node, update };
}

export class Pools {
  #node;
  #drain;

  constructor(node, drain) {
    this.#node = node;
    this.#drain = drain;
  }

  /// `objectiveOf(pool)`: the strictest time to the first token that a model asks of it, or nothing.
  show(pools, objectiveOf) {
    const items = pools.map((pool) => ({ pool, objective: objectiveOf(pool.name) }));
    keyed(this.#node, items, ({ pool }) => pool.name, () => card(this.#drain));
  }
}
