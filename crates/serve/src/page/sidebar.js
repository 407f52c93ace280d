// The list of conversations, and what can be done with each.

import { toMarkdown } from "./conversations.js";
import { button } from "./messages.js";

const menu = document.getElementById("menu");
/// Whom the open menu is for, and what was shown last: while a menu is open, the list may change.
let chosen = null;
let shown = null;

/// Shows the conversations. `actions`: `current`, `isBusy(chat)`, `open(chat)`, `keep(chat)`,
/// `remove(chat)`.
export function showList(list, chats, actions) {
  shown = { list, chats, actions };
  // A name that is being changed is not disturbed.
  if (list.querySelector("input")) return;
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.id : null;
  const items = chats.map((chat) => {
    const item = document.createElement("li");
    item.dataset.id = chat.id;
    const title = document.createElement("button");
    title.type = "button";
    title.className = "title";
    title.dir = "auto";
    title.textContent = chat.title || "New chat";
    title.title = title.textContent;
    title.classList.toggle("busy", actions.isBusy(chat));
    title.addEventListener("click", () => actions.open(chat));
    if (chat === actions.current) {
      item.className = "current";
      title.setAttribute("aria-current", "true");
    }
    const more = button("more", `More for ${title.textContent}`, () => openMenu(more, chat));
    more.setAttribute("aria-haspopup", "menu");
    item.append(title, more);
    return item;
  });
  list.replaceChildren(...items);
  if (focused) list.querySelector(`li[data-id="${CSS.escape(focused)}"] .title`)?.focus();
}

function openMenu(opener, chat) {
  chosen = chat;
  menu.showPopover();
  const place = opener.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
  menu.style.top = `${Math.min(place.bottom + 4, innerHeight - height - 8)}px`;
  menu.firstElementChild.focus();
}

menu.addEventListener("click", (event) => {
  const what = event.target.closest("[data-do]")?.dataset.do;
  if (!what || !chosen) return;
  const chat = chosen;
  menu.hidePopover();
  if (what === "delete") shown.actions.remove(chat);
  else if (what === "rename") rename(chat);
  else if (what === "markdown") download(chat, toMarkdown(chat), "md", "text/markdown");
  else download(chat, JSON.stringify(chat, null, 2), "json", "application/json");
});
menu.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement) + step;
  items[(at + items.length) % items.length].focus();
});

function rename(chat) {
  const item = shown.list.querySelector(`li[data-id="${CSS.escape(chat.id)}"]`);
  if (!item) return;
  const input = document.createElement("input");
  input.value = chat.title;
  input.dir = "auto";
  input.maxLength = 120;
  input.setAttribute("aria-label", "Name of the conversation");
  let isDone = false;
  const finish = (isKept) => {
    if (isDone) return;
    isDone = true;
    if (isKept && input.value.trim()) {
      chat.title = input.value.trim();
      shown.actions.keep(chat);
    }
    input.remove();
    showList(shown.list, shown.chats, shown.actions);
  };
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" || event.key === "Escape") {
      event.stopPropagation();
      finish(event.key === "Enter");
    }
  });
  input.addEventListener("blur", () => finish(true));
  item.replaceChildren(input);
  input.focus();
  input.select();
}

function download(chat, text, ending, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${(chat.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
