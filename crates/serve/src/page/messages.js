// How messages look. It must not know the server, nor where conversations are kept.

import { MarkdownView } from "./markdown.js";

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export function button(name, label, action) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = "icon";
  node.title = label;
  node.setAttribute("aria-label", label);
  node.append(icon(name));
  node.addEventListener("click", action);
  return node;
}

function textButton(label, action, isPrimary) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = label;
  if (isPrimary) node.className = "primary";
  node.addEventListener("click", action);
  return node;
}

function division(className, ...children) {
  const node = document.createElement("div");
  node.className = className;
  node.append(...children);
  return node;
}

/// Puts a text into the clipboard, and says so for a moment where it was asked for.
export async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS there is no clipboard but this.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    node.focus();
  }
  const before = [...node.childNodes];
  const isIcon = node.classList.contains("icon");
  node.replaceChildren(isIcon ? icon("done") : "Copied");
  setTimeout(() => node.replaceChildren(...before), 1500);
}

export class UserView {
  /// `actions.edit(text)` is called with the text as it was changed.
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.node = document.createElement("article");
    this.node.className = "message user";
    this.node.setAttribute("aria-label", "You");
    this.show();
  }

  show() {
    const bubble = division("bubble");
    bubble.dir = "auto";
    bubble.textContent = this.message.content;
    const copyButton = button("copy", "Copy", () => copy(this.message.content, copyButton));
    const edit = button("edit", "Edit", () => this.edit());
    this.node.replaceChildren(bubble, division("actions", copyButton, edit));
  }

  edit() {
    const area = document.createElement("textarea");
    area.value = this.message.content;
    area.dir = "auto";
    area.setAttribute("aria-label", "Edit the message");
    const size = () => {
      area.style.height = "auto";
      area.style.height = `${area.scrollHeight}px`;
    };
    const send = () => area.value.trim() && this.actions.edit(area.value.trim());
    area.addEventListener("input", size);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.show();
      } else if (isSend(event)) {
        event.preventDefault();
        send();
      }
    });
    const buttons = division("", textButton("Cancel", () => this.show()), textButton("Send", send, true));
    this.node.replaceChildren(division("edit", area, buttons));
    size();
    area.focus();
  }
}

/// Enter, unless it ends a word of an input method or asks for a new line.
export const isSend = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.altKey && !event.isComposing && event.keyCode !== 229;

export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.node = document.createElement("article");
    this.node.className = "message assistant";
    this.node.setAttribute("aria-label", message.model || "Assistant");
    this.waiting = document.createElement("span");
    this.waiting.className = "waiting";
    this.text = division("text");
    this.markdown = new MarkdownView(this.text);
    this.tools = division("tools");
    this.notice = division("notice");
    this.stats = document.createElement("span");
    this.stats.className = "stats";
    const copyButton = button("copy", "Copy", () => copy(this.message.content, copyButton));
    this.again = button("again", "Answer again", () => actions.again());
    this.bar = division("actions", copyButton, this.again, this.stats);
    this.node.append(this.waiting, this.text, this.tools, this.notice, this.bar);
    this.show(true);
  }

  /// Shows the message as it is now; `isLast` when nothing was said after it.
  show(isLast) {
    const { message } = this;
    const isWriting = message.state === "writing";
    const isEmpty = !message.content && !message.reasoning && !message.tools?.length;
    this.waiting.hidden = !isWriting || !isEmpty;
    if (message.reasoning) this.showReasoning(isWriting);
    this.text.hidden = !message.content;
    this.markdown.show(message.content, !isWriting);
    this.showTools();
    this.showNotice(isLast);
    this.bar.hidden = isEmpty && isWriting;
    this.again.hidden = isWriting || !isLast;
    this.stats.textContent = statistics(message);
  }

  showReasoning(isWriting) {
    const { message } = this;
    if (!this.reasoning) {
      this.reasoning = document.createElement("details");
      this.reasoning.className = "fold";
      this.reasoning.append(document.createElement("summary"), division("inside text"));
      this.thoughts = new MarkdownView(this.reasoning.lastChild);
      this.reasoning.firstChild.addEventListener("click", () => (this.wasFolded = true));
      this.node.prepend(this.reasoning);
    }
    const isThinking = isWriting && !message.content;
    // Open while there is nothing else to read, unless the reader has decided.
    if (!this.wasFolded) this.reasoning.open = isThinking;
    this.reasoning.firstChild.textContent = isThinking ? "Thinking …" : "Thoughts";
    this.thoughts.show(message.reasoning, !isThinking);
  }

  showTools() {
    const calls = (this.message.tools ?? []).filter(Boolean);
    while (this.tools.childElementCount > calls.length) this.tools.lastChild.remove();
    calls.forEach((call, index) => {
      if (!this.tools.children[index]) {
        const fold = document.createElement("details");
        fold.className = "fold";
        fold.open = true;
        fold.append(document.createElement("summary"), document.createElement("pre"));
        fold.firstChild.append("Calls ", document.createElement("code"));
        this.tools.append(fold);
      }
      const fold = this.tools.children[index];
      fold.querySelector("code").textContent = call.name;
      fold.lastChild.textContent = pretty(call.arguments);
    });
  }

  showNotice(isLast) {
    const { message, actions } = this;
    this.notice.hidden = true;
    if (message.state === "writing" || !message.state) return;
    const hasBegun = Boolean(message.content || message.reasoning);
    const notices = {
      stopped: ["Stopped.", true],
      length: ["The answer reached its longest length.", true],
      lost: [message.error || "The connection was lost.", false],
      busy: [message.error, false],
      failed: [message.error, false],
    };
    const [text, isQuiet] = notices[message.state] ?? ["", true];
    if (!text) return;
    const span = document.createElement("span");
    span.textContent = text;
    this.notice.replaceChildren(span);
    this.notice.classList.toggle("quiet", isQuiet);
    if (isLast && hasBegun && message.state !== "failed") {
      this.notice.append(textButton("Continue", () => actions.goOn(), true));
    }
    if (isLast && !isQuiet) this.notice.append(textButton("Try again", () => actions.again()));
    this.notice.hidden = false;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Not whole yet.
    return text;
  }
}

/// `42.1 tokens/s · first after 0.31 s · 512 in, 128 out`
function statistics({ stats }) {
  if (!stats) return "";
  const parts = [];
  if (stats.rate) parts.push(`${stats.rate.toFixed(stats.rate < 100 ? 1 : 0)} tokens/s`);
  if (stats.firstMs !== undefined) parts.push(`first after ${(stats.firstMs / 1000).toFixed(2)} s`);
  const counts = [];
  if (stats.input) counts.push(`${stats.input} in`);
  if (stats.output) counts.push(`${stats.output} out`);
  if (counts.length) parts.push(counts.join(", "));
  return parts.join(" · ");
}
