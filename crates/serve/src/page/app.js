// The chat page: joins what the user does, what the server says, and what is kept and shown.

import * as conversations from "./conversations.js";
import { AnswerView, UserView, copy, isSend } from "./messages.js";
import { Settings } from "./settings.js";
import { Lost, Refusal, answer, get } from "./stream.js";
import { showList } from "./sidebar.js";

const $ = (id) => document.getElementById(id);
const [log, scroll, prompt] = [$("log"), $("scroll"), $("prompt")];
const settings = new Settings();

/// All conversations, the one that is shown, and the answers under way by conversation.
let all = conversations.load();
let current = conversations.create();
let views = new Map();
const jobs = new Map();
let isFollowing = true;
let askedBefore = false;

const IDEAS = [
  "Explain how rain forms, for a child",
  "Write a haiku about compilers",
  "Plan a week of simple dinners",
  "What does a transformer's attention do?",
];

// ---- the conversation that is shown

function open(conversation) {
  current = conversation;
  views = new Map();
  log.replaceChildren();
  for (const message of current.messages) addView(message);
  isFollowing = true;
  showAll();
  document.body.classList.remove("side-open");
}

function addView(message) {
  const conversation = current;
  const view = message.role === "user"
    ? new UserView(message, { edit: (text) => edit(conversation, message, text) })
    : new AnswerView(message, {
      again: () => again(conversation, message),
      goOn: () => run(conversation, message),
    });
  views.set(message, view);
  log.append(view.node);
}

function showAll() {
  const isBusy = jobs.has(current.id);
  $("welcome").hidden = current.messages.length > 0;
  $("send").hidden = isBusy;
  $("stop").hidden = !isBusy;
  $("send").disabled = !prompt.value.trim();
  log.setAttribute("aria-busy", String(isBusy));
  document.title = current.title ? `${current.title} – Fungible` : "Fungible";
  for (const [message, view] of views) {
    if (message.role !== "user") view.show(message === current.messages.at(-1));
  }
  showList($("chats"), all, { current, isBusy: (chat) => jobs.has(chat.id), open, keep, remove });
  follow();
}

function follow() {
  if (isFollowing) scroll.scrollTop = scroll.scrollHeight;
  $("to-end").hidden = isFollowing || current.messages.length === 0;
}

scroll.addEventListener("scroll", () => {
  isFollowing = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 48;
  $("to-end").hidden = isFollowing || current.messages.length === 0;
}, { passive: true });
$("to-end").addEventListener("click", () => {
  isFollowing = true;
  follow();
});
// A message that is taller, or a keyboard that opens, moves the end.
new ResizeObserver(follow).observe(scroll);

// ---- keeping

function keep(conversation) {
  if (!all.includes(conversation)) all.unshift(conversation);
  if (!conversations.save(conversation)) {
    toast("This browser keeps no more conversations. Delete some, or export this one.");
  }
}

function remove(conversation) {
  stop(conversation);
  const place = all.indexOf(conversation);
  all = all.filter((other) => other !== conversation);
  conversations.remove(conversation);
  if (conversation === current) open(conversations.create());
  else showAll();
  toast(`Deleted “${conversation.title}”.`, "Undo", () => {
    all.splice(place, 0, conversation);
    keep(conversation);
    open(conversation);
  });
}

// ---- asking

function send(text) {
  if (jobs.has(current.id)) return;
  const message = { role: "user", content: text };
  current.messages.push(message);
  current.title ||= conversations.titleOf(text);
  addView(message);
  isFollowing = true;
  ask(current);
}

function edit(conversation, message, text) {
  stop(conversation);
  const at = conversation.messages.indexOf(message);
  const isFirst = at === 0 && conversation.title === conversations.titleOf(message.content);
  conversation.messages.length = at;
  conversation.messages.push({ role: "user", content: text });
  if (isFirst) conversation.title = conversations.titleOf(text);
  open(conversation);
  ask(conversation);
}

function again(conversation, message) {
  stop(conversation);
  conversation.messages.length = conversation.messages.indexOf(message);
  if (conversation === current) {
    views.get(message)?.node.remove();
    views.delete(message);
  }
  ask(conversation);
}

function ask(conversation) {
  const message = { role: "assistant", content: "", state: "", model: model() };
  conversation.messages.push(message);
  conversation.updated = Date.now();
  all = [conversation, ...all.filter((other) => other !== conversation)];
  if (conversation === current) addView(message);
  return run(conversation, message);
}

function requestBody(conversation, message) {
  const messages = [];
  if (settings.systemPrompt) messages.push({ role: "system", content: settings.systemPrompt });
  for (const { role, content } of conversation.messages.slice(0, -1)) {
    if (!content) continue;
    // Where an answer failed, two questions follow each other; many chat templates refuse that.
    if (messages.at(-1)?.role === role) messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  const body = {
    model: model(), messages, stream: true, stream_options: { include_usage: true },
    return_token_ids: true, ...settings.parameters(),
  };
  if (message.tokens?.length) {
    // What is there counts towards the longest length.
    body.continue_token_ids = message.tokens;
    if (body.max_tokens) body.max_tokens += message.tokens.length;
  } else if (message.content) {
    // A server that gave no token ids may know this instead.
    messages.push({ role: "assistant", content: message.content });
    Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  }
  return body;
}

/// Asks for an answer, or for the rest of one, and writes it into the message.
async function run(conversation, message) {
  const job = { controller: new AbortController(), timer: null };
  jobs.get(conversation.id)?.controller.abort();
  jobs.set(conversation.id, job);
  const body = requestBody(conversation, message);
  const before = { tokens: message.tokens?.length ?? 0, content: Boolean(message.content) };
  Object.assign(message, { state: "writing", error: "", model: model() });
  delete message.finish;
  const clock = { asked: performance.now(), first: 0, last: 0, chunks: 0, saved: performance.now() };
  if (!before.content) message.stats = {};
  keep(conversation);
  changed(conversation);
  say("The answer is being written.");
  try {
    await answer(body, settings.key, job.controller.signal, (chunk) => {
      if (job.controller.signal.aborted) return;
      take(message, chunk, clock, before);
      if (clock.last - clock.saved > 1000) {
        clock.saved = clock.last;
        conversations.save(conversation);
      }
      if (conversation === current) draw(message);
    });
    message.state = message.finish === "length" ? "length" : "";
    if (message.state !== "length") delete message.tokens;
    say("The answer is complete.");
  } catch (error) {
    fail(conversation, message, error, job);
  }
  if (jobs.get(conversation.id) === job && message.state !== "busy") jobs.delete(conversation.id);
  conversation.updated = Date.now();
  if (all.includes(conversation)) keep(conversation);
  changed(conversation);
}

/// Adds a chunk to the message.
function take(message, chunk, clock, before) {
  const { stats } = message;
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (delta.content || thought || delta.tool_calls?.length) {
    clock.last = performance.now();
    clock.chunks += 1;
    if (!clock.first) {
      clock.first = clock.last;
      stats.firstMs ??= Math.round(clock.first - clock.asked);
    }
  }
  message.content += delta.content ?? "";
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  for (const call of delta.tool_calls ?? []) {
    message.tools ??= [];
    const known = (message.tools[call.index ?? 0] ??= { name: "", arguments: "" });
    known.name += call.function?.name ?? "";
    known.arguments += call.function?.arguments ?? "";
  }
  if (choice?.token_ids?.length) (message.tokens ??= []).push(...choice.token_ids);
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  const tokens = (message.tokens?.length ?? 0) - before.tokens || clock.chunks;
  stats.output = before.tokens + tokens;
  if (chunk.usage) {
    stats.input = chunk.usage.prompt_tokens;
    stats.output = chunk.usage.completion_tokens;
  }
  const seconds = (clock.last - clock.first) / 1000;
  const later = stats.output - before.tokens - 1;
  // What came in one piece says nothing of a rate.
  if (seconds > 0.02 && later > 0) stats.rate = later / seconds;
}

function fail(conversation, message, error, job) {
  if (error.name === "AbortError") {
    message.state = "stopped";
    say("Stopped.");
    return;
  }
  message.state = "failed";
  message.error = error.message;
  if (error instanceof Lost) {
    message.state = "lost";
  } else if (error instanceof Refusal && error.status === 401) {
    message.error = "The server wants a key.";
    askKey(error.message).then((isGiven) => {
      // Meanwhile it may have been deleted, or gone on.
      const isThere = all.includes(conversation) && conversation.messages.at(-1) === message;
      if (isGiven && isThere) again(conversation, message);
    });
  } else if (error instanceof Refusal && [429, 503].includes(error.status) && error.retrySeconds) {
    message.state = "busy";
    wait(conversation, message, job, error.retrySeconds);
    return;
  } else if (error instanceof SyntaxError) {
    message.error = "The server sent something that is no answer.";
  }
  say(message.error);
}

/// The server is busy, and said for how long: counts down and asks again, unless stopped.
function wait(conversation, message, job, seconds) {
  const until = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    if (left <= 0) {
      run(conversation, message);
      return;
    }
    message.error = `The server is busy. Asking again in ${left} s.`;
    changed(conversation);
    job.timer = setTimeout(tick, 500);
  };
  job.controller.signal.addEventListener("abort", () => {
    clearTimeout(job.timer);
    if (message.state !== "busy") return;
    Object.assign(message, { state: "failed", error: "The server is busy." });
    jobs.delete(conversation.id);
    changed(conversation);
  }, { once: true });
  say("The server is busy.");
  tick();
}

function stop(conversation) {
  jobs.get(conversation.id)?.controller.abort();
}

function changed(conversation) {
  if (conversation === current) showAll();
  else showList($("chats"), all, { current, isBusy: (chat) => jobs.has(chat.id), open, keep, remove });
}

/// At most once per frame: tokens may come faster than a screen shows them.
const toDraw = new Set();
function draw(message) {
  if (toDraw.size === 0) requestAnimationFrame(drawNow);
  toDraw.add(message);
}
function drawNow() {
  for (const message of toDraw) views.get(message)?.show(message === current.messages.at(-1));
  toDraw.clear();
  follow();
}

// ---- the server

const model = () => $("models").value || $("model-name").textContent;

async function look() {
  try {
    const { data } = await get("v1/models", settings.key);
    const names = data.map(({ id }) => id);
    const chosen = $("models").value || stored("fungible.model");
    $("models").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    $("models").hidden = names.length < 2;
    $("model-name").hidden = names.length > 1;
    $("model-name").textContent = names[0] ?? "";
  } catch (error) {
    if (error instanceof Refusal && error.status === 401 && !askedBefore) {
      askedBefore = true;
      if (await askKey(error.message)) await look();
      return;
    }
    toast(error instanceof Lost ? "The server cannot be reached." : error.message, "Try again", look);
    return;
  }
  try {
    const { chip, devices, version } = await get("version", settings.key);
    const count = devices > 1 ? `${devices} × ` : "";
    $("chip").textContent = `${count}${chip}`;
    $("chip").title = `Fungible ${version}, ${devices} ${devices === 1 ? "device" : "devices"}`;
    $("chip").hidden = !chip;
  } catch {
    // A nicety; other servers do not say.
  }
}

/// Asks for the server's key; whether one was given.
function askKey(reason) {
  const dialog = $("ask-key");
  if (dialog.open) return Promise.resolve(false);
  $("ask-key-reason").textContent = reason;
  $("asked-key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    const isGiven = dialog.returnValue === "ok" && $("asked-key").value.trim() !== "";
    if (isGiven) {
      settings.setKey($("asked-key").value);
      if (!model()) look();
    }
    resolve(isGiven);
  }, { once: true }));
}

// ---- the rest of the page

function stored(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

function store(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // It holds for as long as the page is open.
  }
}

let toastTimer;
function toast(text, label, action) {
  const [span, actionButton] = $("toast").children;
  const hide = () => $("toast").classList.remove("shown");
  span.textContent = text;
  actionButton.hidden = !label;
  actionButton.textContent = label ?? "";
  actionButton.onclick = () => {
    hide();
    action();
  };
  $("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, 7000);
}

/// For readers of screens.
function say(text) {
  $("state").textContent = text;
}

function sizePrompt() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
  $("send").disabled = !prompt.value.trim();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || jobs.has(current.id)) return;
  prompt.value = "";
  sizePrompt();
  send(text);
});
prompt.addEventListener("input", sizePrompt);
prompt.addEventListener("keydown", (event) => {
  if (!isSend(event)) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => {
  stop(current);
  prompt.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open], :popover-open")) return;
  if (document.body.classList.contains("side-open")) closeSidebar();
  else stop(current);
});
log.addEventListener("click", (event) => {
  const node = event.target.closest(".copy-code");
  if (node) copy(node.closest(".code").querySelector("code").textContent, node);
});
$("new-chat").addEventListener("click", () => {
  open(conversations.create());
  prompt.focus();
});
$("models").addEventListener("change", () => store("fungible.model", $("models").value));
$("no-key").addEventListener("click", () => $("ask-key").close());
$("open-settings").addEventListener("click", () => $("settings").showModal());
// A click beside a dialog closes it.
$("settings").addEventListener("click", (event) => event.target === $("settings") && $("settings").close());
$("open-sidebar").addEventListener("click", () => {
  document.body.classList.add("side-open");
  $("close-sidebar").focus();
});
for (const id of ["close-sidebar", "scrim"]) {
  $(id).addEventListener("click", closeSidebar);
}
function closeSidebar() {
  document.body.classList.remove("side-open");
  $("open-sidebar").focus();
}

const THEMES = ["", "light", "dark"];
function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "";
  $("theme").querySelector("span").textContent = `Colours: ${theme || "as the system"}`;
}
$("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3];
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  store("fungible.theme", theme);
  showTheme();
});
// Where a keyboard on the screen covers the page instead of making it smaller, the page does that.
window.visualViewport?.addEventListener("resize", () => {
  const { height, scale } = window.visualViewport;
  document.documentElement.style.setProperty("--height", `${Math.round(height * scale)}px`);
});
// Another window of this page has changed what is kept.
window.addEventListener("storage", (event) => {
  const id = conversations.idOf(event.key);
  if (!id || jobs.size > 0) return;
  const kept = conversations.load();
  if (id === current.id) {
    all = kept;
    open(all.find((chat) => chat.id === id) ?? conversations.create());
  } else {
    all = kept.map((chat) => (chat.id === current.id ? current : chat));
    changed(null);
  }
});

for (const idea of IDEAS) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = idea;
  node.addEventListener("click", () => send(idea));
  $("ideas").append(node);
}
showTheme();
sizePrompt();
showAll();
look();
if (matchMedia("(hover: hover)").matches) prompt.focus();
