// Elements of the page. Texts of others come in as text only: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

const SVG_TAGS = new Set(["svg", "path", "line", "text", "g", "title"]);

/// make("td", { class: "number" }, "text", node)
export function make(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/// Changes only what differs, so that screen readers and selections are left in peace.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, name, is) {
  if (node.classList.contains(name) !== is) node.classList.toggle(name, is);
}

const kept = new WeakMap();

/// Makes the children of `parent` those of `items`, in order: `create(item)` gives `{ node, update }`, called
/// once for each key; focus stays where it was.
export function keyed(parent, items, keyOf, create) {
  const old = kept.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? create(item);
    row.update(item);
    now.set(key, row);
  }
  for (const [key, row] of old) if (!now.has(key)) row.node.remove();
  let next = parent.firstChild;
  for (const { node } of now.values()) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  kept.set(parent, now);
}

/// A table with a caption for those who hear it, headings, and a row per item. `columns` are
/// `[heading, isNumber]`; `cells(item)` gives a text, or a node made by a function of the old cell, for each.
export function table(node, caption, columns, empty) {
  node.append(make("caption", { class: "hidden" }, caption));
  const heads = columns.map(([text, isNumber]) => make("th", { scope: "col", class: isNumber && "number" }, text));
  node.append(make("thead", {}, make("tr", {}, ...heads)));
  const body = node.appendChild(make("tbody"));
  const none = make("td", { colspan: columns.length, class: "quiet empty" }, empty);
  const nothing = make("tr", {}, none);
  return {
    show(items, keyOf, create) {
      keyed(body, items, keyOf, create);
      if (items.length) nothing.remove();
      else if (!nothing.isConnected) body.append(nothing);
    },
  };
}

/// A row whose cells are filled by `fill(cells, item)`; the first is its heading.
export function row(columns, fill) {
  const cells = columns.map(([, isNumber], index) =>
    make(index ? "td" : "th", { class: isNumber && "number", scope: index ? undefined : "row" }));
  return { node: make("tr", {}, ...cells), update: (item) => fill(cells, item) };
}
