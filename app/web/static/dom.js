// Elements are made from text, never from HTML, and kept while they stay the same, so that the
// focus, a selection and a screen reader are not disturbed by the next update.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes; children are elements or text. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Set the text of an element (or of the one with this id). */
export function show(target, text) {
  const node = typeof target === "string" ? byId(target) : target;
  if (node.textContent !== text) node.textContent = text;
}

export function attribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/**
 * Make the children of `parent` those of `items`, in their order, keeping the ones that stay.
 * `make(item)` gives a new child, `update(child, item)` brings it up to date.
 */
export function list(parent, items, key, make, update) {
  const names = items.map((item) => String(key(item)));
  const kept = new Map();
  for (const child of [...parent.children]) {
    if (names.includes(child.dataset.key)) kept.set(child.dataset.key, child);
    else child.remove();
  }
  let place = parent.firstElementChild;
  items.forEach((item, index) => {
    const child = kept.get(names[index]) ?? make(item);
    child.dataset.key = names[index];
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  });
}

/** Rows of name, note and value over a bar; `share` is the bar's length, 0 to 1. */
export function bars(parent, rows, empty) {
  const items = rows.length ? rows : [{ key: "\0", empty }];
  list(parent, items, (row) => row.key, makeBar, updateBar);
}

function makeBar(row) {
  if (row.empty) return element("li", { class: "empty" }, row.empty);
  const part = (name) => element("span", { class: name });
  const name = part("name");
  name.dir = "auto";
  const track = element("span", { class: "track", "aria-hidden": "true" }, part("fill"));
  return element("li", {}, name, part("note"), part("value"), track);
}

function updateBar(item, row) {
  if (row.empty) return show(item, row.empty);
  const [name, note, value, track] = item.children;
  show(name, row.name);
  show(note, row.note ?? "");
  show(value, row.value);
  attribute(item, "title", row.title);
  track.firstElementChild.style.width = `${100 * Math.min(1, Math.max(0, row.share || 0))}%`;
}

/** Less important text, in a line of its own. */
export const small = (text) => element("small", { class: "muted" }, text);

/** The table in the element with this id, or the text `empty` where there are no items. */
export function filledTable(id, caption, columns, items, key, empty) {
  if (items.length) table(byId(id), caption, columns, items, key);
  else byId(id).replaceChildren(element("p", { class: "empty" }, empty));
}

/** A table of `columns` {title, cell(item) → text or elements}; cells are rebuilt when changed. */
function table(parent, caption, columns, items, key) {
  let body = parent.querySelector("tbody");
  if (body === null) {
    // The roles are said since a narrow screen shows the rows as blocks.
    const titles = columns.map(({ title }) =>
      element("th", { scope: "col", role: "columnheader" }, title),
    );
    body = element("tbody", { role: "rowgroup" });
    const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...titles));
    parent.replaceChildren(
      element("table", { role: "table", "aria-label": caption }, head, body),
    );
  }
  const make = () => {
    const cells = columns.map(({ title }) =>
      element("td", { role: "cell", "data-title": title }),
    );
    return element("tr", { role: "row" }, ...cells);
  };
  const update = (row, item) => {
    columns.forEach(({ cell }, index) => fill(row.children[index], cell(item)));
  };
  list(body, items, key, make, update);
}

function fill(cell, content) {
  const made = element("td", {}, element("div", {}, ...[content].flat()));
  if (cell.innerHTML !== made.innerHTML) cell.replaceChildren(...made.childNodes);
}
