// The page: asks the gateway every two seconds while somebody looks, and shows what it says.

import { Interface, Refused } from "./api.js";
import { keyed, make, setText } from "./dom.js";
import { age, clock, number, percent, usd } from "./format.js";
import { Pools } from "./pools.js";
import * as tables from "./tables.js";
import { Traffic } from "./traffic.js";

const EVERY_MS = 2000;
/// What changes slowly, or is long, is asked for each so many times.
const SLOWLY = 5;

const $ = (id) => document.getElementById(id);
const gateway = new Interface();
const shown = {};
const data = {};
let timer;
let turn = 0;
let lastContact;
/// A poll that is overtaken by leaving, hiding or the next one says nothing.
let current;

function enter(why) {
  clearTimeout(timer);
  current = undefined;
  gateway.forget();
  for (const id of ["figures", "leave"]) $(id).hidden = true;
  $("enter").hidden = false;
  setText($("refused"), why ?? "");
  setText($("state"), "");
  banner([]);
  $("key").value = "";
  $("key").focus();
}

/// Red lines above everything.
function banner(lines) {
  keyed($("banner"), lines, (line) => line, (line) => ({ node: make("p", {}, line), update: () => {} }));
  document.title = lines.length ? "(!) Fungible gateway" : "Fungible gateway";
}

function troubles({ overview, pools }) {
  const lines = [];
  const { database } = overview;
  if (database.is_away) {
    lines.push(`The database is away. Requests are still answered; ${number(database.records_waiting)} of at most ${
      number(database.records_max)} records wait in memory, and then requests are refused.`);
  }
  for (const model of overview.models) {
    if (model.backends > 0 && model.well === 0)
      lines.push(`No server of ${model.name} is well: its requests fail until one is.`);
  }
  const stale = pools.filter((pool) => pool.is_price_stale).map((pool) => pool.name);
  if (stale.length) lines.push(`Prices of ${stale.join(", ")} are too old and do not steer.`);
  if (overview.config_error) lines.push(`The config was not read again: ${overview.config_error}`);
  return lines;
}

const TILES = [
  ["Requests/s", ({ pools }) => number(sum(pools, "requests_per_second"))],
  ["Tokens/s", ({ pools }) => number(sum(pools, "tokens_per_second"))],
  ["Under way", ({ pools, overview }) =>
    number(sum(pools, "in_flight")) + (overview.waiting ? `, ${number(overview.waiting)} wait` : "")],
  ["Spend in the last hour", ({ traffic }) => usd(total(traffic, "usd"))],
  ["Spend today (UTC)", ({ overview }) => usd(overview.today?.cost_usd)],
  ["Saved by routing today", ({ overview }) => usd(overview.today?.saved_usd)],
  ["Failed today", ({ overview: { today } }) => today?.requests ? percent(today.failed / today.requests) : "–"],
];

const sum = (list, field) => list.reduce((all, one) => all + (one[field] ?? 0), 0);
const total = (traffic, field) => traffic.pools.reduce((all, pool) => all + pool[field].reduce((a, b) => a + b, 0), 0);

function tiles() {
  keyed($("tiles"), TILES, ([name]) => name, ([name]) => {
    const value = make("dd");
    return { node: make("div", { class: "panel tile" }, make("dt", {}, name), value), update: ([, show]) => setText(value, show(data)) };
  });
}

function traffic() {
  const chips = new Map(data.pools.map((pool) => [pool.name, pool.chip || pool.name]));
  const measure = document.querySelector("[name=measure]:checked").value;
  shown.traffic.show(data.traffic, (pool) => chips.get(pool) ?? pool, measure);
}

function show() {
  const { overview, pools } = data;
  banner(troubles(data));
  tiles();
  traffic();
  shown.pools.show(pools, (name) => {
    const wanted = overview.models.filter((model) => model.pools.includes(name)).map((model) => model.ttft_seconds);
    const given = wanted.filter((value) => typeof value === "number");
    return given.length ? Math.min(...given) : undefined;
  });
  shown.models(overview.models);
  shown.trials(data.mirrors, data.canaries);
  shown.tenants(data.tenants);
  const { kind } = overview.database;
  setText($("foot"), `Version ${overview.version}, up for ${age(overview.up_seconds)}, records in ${kind}.`);
}

async function poll() {
  clearTimeout(timer);
  const mine = (current = {});
  const names = ["overview", "pools", "mirrors", "canaries"];
  if (turn % SLOWLY === 0) names.push("traffic", "tenants");
  try {
    const answers = await Promise.all(names.map((name) => gateway.get(name)));
    if (mine !== current) return;
    names.forEach((name, at) => (data[name] = answers[at].data ?? answers[at]));
    turn += 1;
    lastContact = Date.now();
    $("enter").hidden = true;
    for (const id of ["figures", "leave"]) $(id).hidden = false;
    show();
    setText($("state"), `live, ${clock(lastContact)}`);
    $("state").dataset.state = "well";
  } catch (error) {
    if (mine !== current) return;
    if (error instanceof Refused) return enter(error.message);
    const since = lastContact ? ` What is shown is of ${clock(lastContact)}.` : "";
    banner([`The gateway does not answer (${error.message}).${since}`]);
    setText($("state"), "no contact");
    $("state").dataset.state = "ill";
  }
  if (!document.hidden) timer = setTimeout(poll, EVERY_MS);
}

/// Nobody looks: nothing is asked. Whoever comes back sees new figures at once.
function look() {
  if (!gateway.hasKey) return;
  if (document.hidden) {
    clearTimeout(timer);
    current = undefined;
    setText($("state"), "paused");
    $("state").dataset.state = "paused";
  } else {
    turn = 0;
    poll();
  }
}

function sure(title, text, yes) {
  const dialog = $("sure");
  setText($("sure-title"), title);
  setText($("sure-text"), text);
  setText($("sure-yes"), yes);
  dialog.showModal();
  // At once with the answer, not with the close that follows it: by then another may be open.
  return new Promise((done) => {
    dialog.querySelector("form").onsubmit = (event) => done(event.submitter?.value === "yes");
    dialog.oncancel = () => done(false);
  });
}

async function act(path, body, told) {
  try {
    await gateway.post(path, body);
    setText($("told"), told);
  } catch (error) {
    if (error instanceof Refused) return enter(error.message);
    setText($("told"), error.message);
  }
  setTimeout(() => setText($("told"), ""), 6000);
  turn = 0;
  poll();
}

async function drain(backend, is) {
  const isSure = !is || await sure(`Drain ${backend}?`,
    "It gets no further requests; those under way are finished. It can be taken back at any time.", "Drain");
  if (isSure) await act("drain", { backend, drain: is }, is ? `${backend} gets no further requests.` : `${backend} is taken back.`);
}

async function again(model, pool) {
  const isSure = await sure(`Try ${pool} again?`, `It gets its share of ${model}'s requests and is judged anew.`, "Try again");
  if (isSure) await act("canaries", { model }, `${pool} is judged anew.`);
}

shown.traffic = new Traffic($("picture"), $("chips"));
shown.pools = new Pools($("pools"), drain);
shown.models = tables.models($("models"));
shown.trials = tables.trials($("trials"), again);
shown.tenants = tables.tenants($("tenants"));

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  gateway.remember($("key").value.trim());
  turn = 0;
  poll();
});
$("leave").addEventListener("click", () => enter());
for (const choice of document.querySelectorAll("[name=measure]")) choice.addEventListener("change", traffic);
document.addEventListener("visibilitychange", look);
if (gateway.hasKey) poll();
else enter();
