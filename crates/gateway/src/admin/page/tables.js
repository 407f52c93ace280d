// Models, chips on trial, tenants: one table each.

import { make, row, setClass, setText, table } from "./dom.js";
import { number, percent, seconds, usd } from "./format.js";

const MODELS = [["Model"], ["Goes to"], ["Policy"], ["First token, objective", true], ["Per token, objective", true], ["Servers that are well", true]];

export function models(node) {
  const shown = table(node, "Models", MODELS, "No model is served.");
  return (list) =>
    shown.show(list, (model) => model.name, () => row(MODELS, (cells, model) => {
      const texts = [model.name, model.pools.join(", "), model.policy, seconds(model.ttft_seconds),
        seconds(model.tpot_seconds), `${number(model.well)} of ${number(model.backends)}`];
      texts.forEach((text, at) => setText(cells[at], text));
      setClass(cells[5], "over", model.well === 0);
    }));
}

const TRIALS = [["Model"], ["Chip"], ["How"], ["Verdict"], ["Requests", true], ["Failed", true],
  ["First token p50", true], ["Per token p50", true], ["Million tokens", true], ["Same answers", true]];

/// What can be compared of texts: those of greedy requests, word for word and from their beginning on.
function agreement({ compared, same, agreed_share: agreed }) {
  if (!compared) return ["–", ""];
  return [`${percent(same / compared)} of ${number(compared)}`, `${percent(agreed)} of the text`];
}

/// A word, and a smaller line below it.
function twoLines(cell) {
  const [word, more] = [make("span"), make("span", { class: "why" })];
  cell.append(word, more);
  return ([first, second]) => {
    setText(word, first);
    setText(more, second);
  };
}

/// A figure beside that of the other pools: `210 ms (180 ms)`.
function beside(show, value, usual) {
  return typeof usual === "number" ? `${show(value)} (${show(usual)})` : show(value);
}

/// Mirrors and canaries, in one table: both are pools that are not trusted yet.
export function trials(node, again) {
  const shown = table(node, "Pools on trial, in brackets the figures of the others", TRIALS,
    "No pool is on trial. A model's `mirror` or `canary` puts one there.");
  return (mirrors, canaries) => {
    const list = [
      ...mirrors.map((one) => ({ ...one, how: `mirror, ${percent(one.share)}` })),
      ...canaries.map((one) => ({ ...one, isCanary: true, how: `canary, ${percent(one.share)}` })),
    ];
    shown.show(list, (one) => `${one.how} ${one.model} ${one.pool}`, () => {
      let button;
      let verdict;
      let answers;
      return row(TRIALS, (cells, one) => {
        const texts = [one.model, one.pool, one.how];
        texts.forEach((text, at) => setText(cells[at], text));
        verdict ??= twoLines(cells[3]);
        answers ??= twoLines(cells[9]);
        verdict([one.verdict, one.why]);
        cells[3].dataset.verdict = one.verdict ?? "";
        setText(cells[4], number(one.requests));
        setText(cells[5], beside(percent, one.failure_share, one.usual_failure_share));
        setText(cells[6], beside(seconds, one.ttft_p50_seconds, one.usual_ttft_p50_seconds));
        // Where nothing is streamed, the time of whole answers by their tokens.
        setText(cells[7], typeof one.tpot_p50_seconds === "number"
          ? beside(seconds, one.tpot_p50_seconds, one.usual_tpot_p50_seconds)
          : beside(seconds, one.whole_tpot_p50_seconds, one.usual_whole_tpot_p50_seconds));
        setText(cells[8], beside(usd, one.usd_per_million, one.usual_usd_per_million));
        answers(agreement(one));
        if (one.isCanary && !button) {
          button = make("button", { type: "button", class: "small" }, "Try again");
          button.setAttribute("aria-label", `Try ${one.pool} for ${one.model} again`);
          button.onclick = () => again(one.model, one.pool);
          cells[3].append(button);
        }
        if (button) button.hidden = one.verdict !== "rolled back";
      });
    });
  };
}

const TENANTS = [["Tenant"], ["Budgets"], ["Requests this minute", true], ["Tokens this minute", true], ["Under way", true], ["Priority", true], ["Keys", true]];

const of = (value, limit) => (typeof limit === "number" ? `${number(value)} of ${number(limit)}` : number(value));

/// How much of a budget is gone, as a bar with its words.
function bar(cell, budgets) {
  if (!budgets.length) {
    if (cell.textContent !== "no budget") cell.replaceChildren(make("span", { class: "quiet" }, "no budget"));
    return;
  }
  while (cell.children.length > budgets.length || cell.querySelector(":scope > .quiet")) cell.lastChild.remove();
  budgets.forEach((budget, at) => {
    let node = cell.children[at];
    if (!node) {
      node = cell.appendChild(make("div", { class: "budget" }, make("span"),
        make("div", { class: "meter", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100 }, make("div"))));
    }
    const [words, meter] = node.children;
    const share = budget.usd > 0 ? Math.min(1, budget.spent_usd / budget.usd) : 1;
    const text = `${usd(budget.spent_usd)} of ${usd(budget.usd)} a ${budget.period}`;
    setText(words, text);
    meter.setAttribute("aria-valuenow", Math.round(share * 100));
    meter.setAttribute("aria-label", text);
    meter.dataset.level = share >= 1 ? "full" : share >= 0.8 ? "high" : "fine";
    meter.firstChild.style.width = `${share * 100}%`;
  });
}

export function tenants(node) {
  const shown = table(node, "Tenants", TENANTS,
    "There is no tenant yet. `fungible tenants add NAME` makes one and prints its key.");
  return (list) =>
    shown.show(list, (tenant) => tenant.name, () => row(TENANTS, (cells, tenant) => {
      setText(cells[0], tenant.is_suspended ? `${tenant.name} (suspended)` : tenant.name);
      setClass(cells[0], "over", Boolean(tenant.is_suspended));
      bar(cells[1], tenant.budgets);
      setText(cells[2], of(tenant.requests, tenant.requests_per_minute_max));
      setText(cells[3], of(tenant.tokens, tenant.tokens_per_minute_max));
      setText(cells[4], of(tenant.in_flight, tenant.concurrency_max));
      setText(cells[5], number(tenant.priority));
      setText(cells[6], number(tenant.keys.filter((key) => key.is_valid).length));
    }));
}
