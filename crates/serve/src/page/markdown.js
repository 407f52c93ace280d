// Markdown into DOM nodes, piece by piece while it is being written.
//
// Text comes from a model, so nothing of it ever becomes HTML: every node is made by name, every
// piece of text is a text node, links go to http, https and mailto only, and pictures are links,
// since loading one would tell its server of the conversation. HTML is shown as it was written.
//
// While text comes in, only the last block (paragraph, list, ...) can still change: the ones before
// it are left alone. It must not know messages, the server or the rest of the page.

const DEPTH_MAX = 12;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/// Text that goes on growing, shown in `container`.
export class MarkdownView {
  constructor(container) {
    this.container = container;
    this.text = "";
    this.isWhole = false;
    // The last block: where its text begins, and what shows it.
    this.start = 0;
    this.open = [];
    this.code = null;
  }

  /// Shows `text`, which begins with what was shown before; `isWhole` when nothing follows.
  show(text, isWhole) {
    if (text === this.text && isWhole === this.isWhole) return;
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    this.isWhole = isWhole;
    const rest = text.slice(this.start);
    if (!isWhole && this.appendCode(rest)) return;
    for (const node of this.open) node.remove();
    this.open = [];
    this.code = null;
    const lines = rest.split("\n");
    const blocks = parse(lines, 0);
    const last = blocks.at(-1);
    for (const block of blocks) {
      const isOpen = block === last && !isWhole;
      const nodes = render(block, 0, isOpen);
      this.container.append(...nodes);
      if (isOpen || isWhole) this.open.push(...nodes);
      if (!isOpen) continue;
      this.start += lines.slice(0, block.from).reduce((sum, line) => sum + line.length + 1, 0);
      if (block.kind === "code" && !block.closed) {
        const node = nodes[0].querySelector("code").firstChild;
        this.code = { node, shown: text.length, fence: block.fence };
      }
    }
  }

  /// Long code would be costly to make anew for every token, so what came is appended.
  appendCode(rest) {
    if (!this.code) return false;
    const { node, shown, fence } = this.code;
    const added = this.text.slice(shown);
    const line = this.text.slice(this.text.lastIndexOf("\n", shown - 1) + 1);
    // The fence's end may be in what came, or begin in it.
    if (line.includes(fence[0]) || rest.indexOf("\n") < 0) return false;
    node.appendData(added);
    this.code.shown = this.text.length;
    return true;
  }

  clear() {
    this.container.replaceChildren();
    this.text = "";
    this.start = 0;
    this.open = [];
    this.code = null;
  }
}

/// Lines into blocks. `from` is the line that a block begins with.
function parse(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const from = at;
    const fence = FENCE.exec(line);
    if (fence) {
      const indent = /^ */.exec(line)[0].length;
      const code = [];
      let closed = false;
      for (at += 1; at < lines.length; at += 1) {
        const end = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(lines[at]);
        if (end && end[1][0] === fence[1][0] && end[1].length >= fence[1].length) {
          closed = true;
          at += 1;
          break;
        }
        code.push(lines[at].replace(new RegExp(`^ {0,${indent}}`), ""));
      }
      const language = fence[2].trim().split(/\s+/)[0];
      blocks.push({ kind: "code", from, code: code.join("\n"), language, closed, fence: fence[1] });
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) {
      blocks.push({ kind: "heading", from, level: heading[1].length, text: heading[2] ?? "" });
      at += 1;
      continue;
    }
    if (RULE.test(line)) {
      blocks.push({ kind: "rule", from });
      at += 1;
      continue;
    }
    if (QUOTE.test(line) && depth < DEPTH_MAX) {
      const inner = [];
      // A paragraph in a quote goes on without the mark.
      while (at < lines.length && (QUOTE.test(lines[at]) || !begins(lines, at))) {
        inner.push(lines[at].replace(QUOTE, ""));
        at += 1;
      }
      blocks.push({ kind: "quote", from, blocks: parse(inner, depth + 1) });
      continue;
    }
    if (ITEM.test(line) && depth < DEPTH_MAX) {
      at = parseList(lines, at, depth, blocks);
      continue;
    }
    if (isTable(lines, at)) {
      const head = cells(line);
      const aligns = cells(lines[at + 1]).map(alignment);
      const rows = [];
      for (at += 2; at < lines.length && lines[at].includes("|") && lines[at].trim(); at += 1) {
        rows.push(cells(lines[at]));
      }
      blocks.push({ kind: "table", from, head, aligns, rows });
      continue;
    }
    const text = [line];
    for (at += 1; at < lines.length && !begins(lines, at); at += 1) text.push(lines[at]);
    blocks.push({ kind: "paragraph", from, text: text.map((line) => line.trimStart()).join("\n") });
  }
  return blocks;
}

/// Whether a paragraph cannot go on with this line.
function begins(lines, at) {
  const line = lines[at];
  if (!line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  const item = ITEM.exec(line);
  // A number at a line's beginning may just be a number, unless it begins to count.
  const isItem = item && item[4] && (!/^\d/.test(item[2]) || parseInt(item[2], 10) === 1);
  return QUOTE.test(line) || Boolean(isItem) || isTable(lines, at);
}

function parseList(lines, start, depth, blocks) {
  const first = ITEM.exec(lines[start]);
  const isOrdered = /\d/.test(first[2]);
  const list = {
    kind: "list", from: start, ordered: isOrdered, start: parseInt(first[2], 10), items: [],
    loose: false,
  };
  let at = start;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || /\d/.test(item[2]) !== isOrdered || item[1].length > first[1].length + 3) break;
    if (RULE.test(lines[at])) break;
    const indent = item[1].length + item[2].length + Math.min(item[3].length || 1, 4);
    const inner = [item[4]];
    at += 1;
    while (at < lines.length) {
      const line = lines[at];
      if (!line.trim()) {
        // A blank line belongs to the item if what follows does.
        let next = at + 1;
        while (next < lines.length && !lines[next].trim()) next += 1;
        if (next >= lines.length || spaces(lines[next]) < Math.min(indent, item[1].length + 2)) break;
        inner.push("");
        at += 1;
        continue;
      }
      const own = spaces(line) >= Math.min(indent, item[1].length + 2);
      const after = inner.at(-1) === "";
      if (!own && (after || begins(lines, at) || ITEM.test(line))) break;
      inner.push(line.slice(Math.min(spaces(line), indent)));
      at += 1;
    }
    list.items.push(parse(inner, depth + 1));
    let next = at;
    while (next < lines.length && !lines[next].trim()) next += 1;
    const following = next < lines.length && ITEM.exec(lines[next]);
    const goesOn = following && /\d/.test(following[2]) === isOrdered && !RULE.test(lines[next]);
    if (next > at && goesOn) {
      list.loose = true;
      at = next;
    } else if (!goesOn) {
      break;
    }
  }
  blocks.push(list);
  return Math.max(at, start + 1);
}

const spaces = (line) => line.length - line.trimStart().length;

function isTable(lines, at) {
  const rule = lines[at + 1];
  return lines[at].includes("|") && rule !== undefined && rule.includes("-") &&
    rule.includes("|") && TABLE_RULE.test(rule);
}

/// A table's row, cut at bars that are neither escaped nor in code.
function cells(line) {
  const found = [];
  let cell = "", inCode = false;
  const row = line.trim().replace(/^\|/, "").replace(/([^\\])\|$/, "$1");
  for (let at = 0; at < row.length; at += 1) {
    if (row[at] === "\\" && row[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (row[at] === "|" && !inCode) {
      found.push(cell.trim());
      cell = "";
    } else {
      if (row[at] === "`") inCode = !inCode;
      cell += row[at];
    }
  }
  return [...found, cell.trim()];
}

function alignment(rule) {
  if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "end";
  return "";
}

/// The direction of a text, by its first letter. `dir="auto"` would say the same, but makes the browser
/// look through a long block again for every node that is added to it.
function direction(text) {
  const letter = /\p{L}/u.exec(text)?.[0];
  const isRight = letter && /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u.test(letter);
  return letter ? { dir: isRight ? "rtl" : "ltr" } : {};
}

/// The text that a block begins with.
function opening(block) {
  return block.text ?? block.head?.[0] ?? (block.blocks ?? block.items?.[0] ?? []).map(opening).join(" ");
}

function render(block, depth, isOpen) {
  switch (block.kind) {
    case "code":
      return [codeBlock(block.code, block.language)];
    case "heading":
      // The page has headings of its own above these.
      return [element(`h${Math.min(block.level + 2, 6)}`, direction(block.text), ...inline(block.text, isOpen))];
    case "rule":
      return [element("hr")];
    case "quote":
      return [element("blockquote", direction(opening(block)), ...renderAll(block.blocks, depth + 1, isOpen))];
    case "table":
      return [table(block)];
    case "list": {
      const list = element(block.ordered ? "ol" : "ul", direction(opening(block)));
      if (block.ordered && block.start !== 1) list.setAttribute("start", String(block.start));
      for (const item of block.items) {
        const isLast = isOpen && item === block.items.at(-1);
        list.append(listItem(item, block.loose, depth, isLast));
      }
      return [list];
    }
    default:
      return [element("p", direction(block.text), ...inline(block.text, isOpen))];
  }
}

function renderAll(blocks, depth, isOpen) {
  return blocks.flatMap((block) => render(block, depth, isOpen && block === blocks.at(-1)));
}

function listItem(blocks, isLoose, depth, isOpen) {
  const node = element("li");
  const first = blocks[0];
  const task = first?.kind === "paragraph" && /^\[([ xX])\]\s+/.exec(first.text);
  if (task) {
    first.text = first.text.slice(task[0].length);
    const box = element("input", { type: "checkbox", disabled: "", "aria-label": "done" });
    box.checked = task[1] !== " ";
    node.classList.add("task");
    node.append(box);
  }
  for (const block of blocks) {
    const isLast = isOpen && block === blocks.at(-1);
    const isTight = block.kind === "paragraph" && !isLoose;
    node.append(...(isTight ? inline(block.text, isLast) : render(block, depth + 1, isLast)));
  }
  return node;
}

function codeBlock(code, language) {
  const button = element("button", { type: "button", class: "copy-code" }, "Copy");
  const head = element("div", { class: "code-head" }, element("span", {}, language || "text"), button);
  const body = element("code", {}, document.createTextNode(code));
  const pre = element("pre", { dir: "ltr", tabindex: "0", "aria-label": "code" }, body);
  return element("div", { class: "code" }, head, pre);
}

function table({ head, aligns, rows }) {
  const row = (name, texts) => {
    const cell = (text, index) => {
      const node = element(name, direction(text), ...inline(text, false));
      if (aligns[index]) node.classList.add(aligns[index]);
      return node;
    };
    // Rows are as wide as the heading, whatever was written.
    return element("tr", {}, ...head.map((_, index) => cell(texts[index] ?? "", index)));
  };
  const body = element("tbody", {}, ...rows.map((texts) => row("td", texts)));
  const node = element("table", {}, element("thead", {}, row("th", head)), body);
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "table" }, node);
}

const MARKS = [["***", "strong"], ["___", "strong"], ["**", "strong"], ["__", "strong"],
  ["~~", "del"], ["*", "em"], ["_", "em"]];
const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);

/// Nodes for a text within a block. Where `isOpen`, more will follow: code and strong text that have
/// begun and not ended yet are shown as such, so that nothing jumps when they end.
function inline(text, isOpen, depth = 0) {
  const nodes = [];
  let plain = "", at = 0;
  // Marks that have no end from here on. Without it, many of them would be looked for again and again.
  const endless = new Set();
  const find = (mark, from) => {
    if (endless.has(mark)) return -1;
    const end = text.indexOf(mark, from);
    if (end < 0) endless.add(mark);
    return end;
  };
  const push = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(node);
  };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = depth < DEPTH_MAX ? SPECIAL.exec(text) : null;
    plain += text.slice(at, next ? next.index : text.length);
    if (!next) break;
    at = next.index;
    const character = text[at];
    if (character === "\n") {
      plain = plain.trimEnd();
      push(element("br"));
      at += 1;
      while (text[at] === " ") at += 1;
      continue;
    }
    if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
      continue;
    }
    if (character === "`") {
      const mark = /^`+/.exec(text.slice(at, at + 64))[0];
      let end = find(mark, at + mark.length);
      while (end >= 0 && text[end + mark.length] === "`") {
        let past = end;
        while (text[past] === "`") past += 1;
        end = find(mark, past);
      }
      if (end < 0 && isOpen && at + mark.length < text.length) end = text.length;
      if (end >= 0) {
        const code = text.slice(at + mark.length, end).replaceAll("\n", " ");
        const inner = /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code;
        push(element("code", { dir: "ltr" }, inner));
        at = end + mark.length;
        continue;
      }
      plain += mark;
      at += mark.length;
      continue;
    }
    if (character === "[" || (character === "!" && text[at + 1] === "[")) {
      const found = link(text, character === "!" ? at + 1 : at, depth);
      if (found) {
        push(found.node);
        at = found.end;
        continue;
      }
    }
    if (character === "<") {
      const br = /^<br\s*\/?>/i.exec(text.slice(at, at + 8));
      const address = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/.exec(text.slice(at, at + 2000));
      if (br || address) {
        push(br ? element("br") : anchor(address[1], address[1].replace("mailto:", "")));
        at += (br ?? address)[0].length;
        continue;
      }
    }
    if (character === "h") {
      // Punctuation at its end is the sentence's.
      const url = /^[^\s<>"'`|]+/.exec(text.slice(at, at + 2000))[0].replace(/[.,;:!?*_~)\]]+$/, "");
      const node = !isWord(text[at - 1]) && anchor(url, url);
      if (node) push(node);
      else plain += url;
      at += url.length;
      if (url) continue;
    }
    const found = emphasis(text, at, find, isOpen);
    if (found) {
      push(element(found.name, {}, ...inline(found.inner, isOpen && found.end >= text.length, depth + 1)));
      at = found.end;
      continue;
    }
    plain += character;
    at += 1;
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

function emphasis(text, at, find, isOpen) {
  const found = MARKS.find(([mark]) => text.startsWith(mark, at));
  if (!found) return null;
  const [mark, name] = found;
  const from = at + mark.length;
  // `2 * 3` and `snake_case` are no emphasis.
  if (from >= text.length || /\s/.test(text[from])) return null;
  if (mark.includes("_") && isWord(text[at - 1])) return null;
  let end = find(mark, from);
  // A few tries: an end after a space, or within a word, is none.
  for (let tries = 0; end >= 0 && tries < 16; tries += 1) {
    const ends = !/\s/.test(text[end - 1]) && end > from &&
      !(mark.includes("_") && isWord(text[end + mark.length])) &&
      !(mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark));
    if (ends) {
      const inner = text.slice(from, end);
      return { name, inner: mark.length === 3 ? `*${inner}*` : inner, end: end + mark.length };
    }
    end = find(mark, end + mark.length);
  }
  const isBegun = isOpen && (mark === "**" || mark === "__") && !text.slice(from).includes("\n");
  return isBegun ? { name, inner: text.slice(from), end: text.length } : null;
}

/// `[text](address "title")` from the bracket at `at`.
function link(text, at, depth) {
  const limit = Math.min(text.length, at + 2000);
  let level = 0, close = -1;
  for (let place = at; place < limit; place += 1) {
    if (text[place] === "\\") place += 1;
    else if (text[place] === "[") level += 1;
    else if (text[place] === "]" && (level -= 1) === 0) {
      close = place;
      break;
    }
  }
  if (close < 0 || text[close + 1] !== "(") return null;
  const target = /^\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\))*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/
    .exec(text.slice(close + 1, close + 2001));
  if (!target) return null;
  const label = text.slice(at + 1, close);
  const node = anchor(target[1], ...inline(label || target[1], false, depth + 1));
  return node && { node, end: close + 1 + target[0].length };
}

/// A link; none where it leads to anything but a page or a mailbox.
function anchor(address, ...children) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const attributes = { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", attributes, ...children);
}
