// The picture of an hour: what went through each kind of chip, one upon the other, and its table.

import { make, row, setText, table } from "./dom.js";
import { number, percent, usd } from "./format.js";

const WIDTH = 720;
const HEIGHT = 180;
const FOOT = 18;
/// Steps are ten seconds; so many are drawn as one, or the picture is all spikes.
const TOGETHER = 3;
/// Beyond so many kinds the smallest share a colour and the name "others".
const KINDS_MAX = 6;

const MEASURES = {
  requests: { unit: "requests/s", show: number, perSecond: 1 },
  tokens: { unit: "tokens/s", show: number, perSecond: 1 },
  usd: { unit: "per hour", show: usd, perSecond: 3600 },
};

const COLUMNS = [["Chip"], ["Requests", true], ["Share", true], ["Tokens", true], ["Spend", true]];

/// Sums by chip: `chipOf(pool)` is its name.
function byChip(traffic, chipOf) {
  const kinds = new Map();
  for (const pool of traffic.pools) {
    const name = pool.name ? chipOf(pool.name) : "none answered";
    const kind = kinds.get(name) ?? { name, requests: [], tokens: [], usd: [] };
    for (const measure of Object.keys(MEASURES))
      pool[measure].forEach((value, at) => (kind[measure][at] = (kind[measure][at] ?? 0) + value));
    kinds.set(name, kind);
  }
  const sum = (list) => list.reduce((total, value) => total + value, 0);
  const all = [...kinds.values()].map((kind) => ({
    ...kind,
    totals: { requests: sum(kind.requests), tokens: sum(kind.tokens), usd: sum(kind.usd) },
  }));
  all.sort((a, b) => b.totals.requests - a.totals.requests || a.name.localeCompare(b.name));
  if (all.length <= KINDS_MAX) return all;
  const rest = all.splice(KINDS_MAX - 1);
  const add = (lists) => lists[0].map((_, at) => sum(lists.map((list) => list[at])));
  const others = { name: "others", totals: {} };
  for (const measure of Object.keys(MEASURES)) {
    others[measure] = add(rest.map((kind) => kind[measure]));
    others.totals[measure] = sum(others[measure]);
  }
  return [...all, others];
}

/// A round number that is not smaller: 1, 2 or 5 times a power of ten.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((bound) => bound >= value * 0.999);
}

export class Traffic {
  #picture;
  #table;
  #colours = new Map();
  #last;

  constructor(picture, node) {
    this.#picture = picture;
    this.#table = table(node, "Traffic of the last hour by chip", COLUMNS, "No request has ended in the last hour.");
  }

  /// The colour of a chip stays while the page is open.
  #colour(name) {
    if (!this.#colours.has(name)) this.#colours.set(name, this.#colours.size % KINDS_MAX);
    return `colour-${this.#colours.get(name)}`;
  }

  show(traffic, chipOf, measure) {
    const kinds = byChip(traffic, chipOf);
    for (const kind of [...kinds].sort((a, b) => a.name.localeCompare(b.name))) this.#colour(kind.name);
    const total = kinds.reduce((sum, kind) => sum + kind.totals.requests, 0);
    this.#table.show(kinds, (kind) => kind.name, (kind) => {
      const swatch = make("span", { class: `swatch ${this.#colour(kind.name)}` });
      const name = make("span");
      const made = row(COLUMNS, (cells, item) => {
        if (!name.isConnected && !cells[0].firstChild) cells[0].append(swatch, name);
        setText(name, item.name);
        setText(cells[1], number(item.totals.requests));
        setText(cells[2], percent(item.totals.requests / total));
        setText(cells[3], number(item.totals.tokens));
        setText(cells[4], usd(item.totals.usd));
      });
      return made;
    });
    const key = JSON.stringify([measure, traffic]);
    if (key === this.#last) return;
    this.#last = key;
    this.#draw(kinds, traffic, measure, total);
  }

  #draw(kinds, traffic, measure, total) {
    const { unit, show, perSecond } = MEASURES[measure];
    const steps = traffic.pools[0]?.requests.length ?? 0;
    if (!steps) {
      const words = "Nothing yet: the picture begins with the first request.";
      this.#picture.replaceChildren(make("p", { class: "quiet empty" }, words));
      return;
    }
    // The last step is not over, so it is left out; groups end with the newest whole one.
    const whole = Math.floor((steps - 1) / TOGETHER);
    const first = steps - 1 - whole * TOGETHER;
    const seconds = TOGETHER * traffic.step_seconds;
    const rate = (list, group) => {
      let sum = 0;
      for (let at = 0; at < TOGETHER; at += 1) sum += list[first + group * TOGETHER + at];
      return (sum / seconds) * perSecond;
    };
    const layers = kinds.map((kind) => ({
      name: kind.name,
      values: Array.from({ length: whole }, (_, group) => rate(kind[measure], group)),
    }));
    const heights = Array.from({ length: whole }, (_, group) =>
      layers.reduce((sum, layer) => sum + layer.values[group], 0));
    const top = roundUp(Math.max(0, ...heights));
    // An hour is always the whole width; what was before the start is empty.
    const groups = Math.floor((3600 / traffic.step_seconds - 1) / TOGETHER);
    const x = (group) => WIDTH - ((whole - 1 - group) / (groups - 1)) * WIDTH;
    const y = (value) => HEIGHT - (value / top) * HEIGHT;
    const words = `${unit}, up to ${show(top)}. Shares of requests: ${
      kinds.map((kind) => `${kind.name} ${percent(kind.totals.requests / total)}`).join(", ")}.`;
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + FOOT}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `Traffic of the last hour in ${words}` });
    for (const share of [0, 0.5, 1])
      svg.append(make("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(top * share), y2: y(top * share) }));
    const below = new Array(whole).fill(0);
    for (const layer of layers) {
      const points = (list) => list.map((value, group) => `${x(group).toFixed(1)},${y(value).toFixed(1)}`);
      const floor = points(below).reverse();
      layer.values.forEach((value, group) => (below[group] += value));
      const path = [...points(below), ...floor].join("L");
      if (whole > 1) svg.append(make("path", { class: this.#colour(layer.name), d: `M${path}Z` },
        make("title", {}, layer.name)));
    }
    // Texts stand beside the picture, not in it: it is stretched to whatever width there is.
    const label = (text, name) => make("span", { class: `label ${name}`, "aria-hidden": "true" }, text);
    this.#picture.replaceChildren(svg,
      label(`${show(top)} ${unit}`, "top"),
      label("1 h ago", "left"), label("30 min", "center"), label("now", "right"));
  }
}
