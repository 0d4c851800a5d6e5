// Build elements. What data says goes in as text only: nothing here parses HTML, so nothing that an event holds can run.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; `props`: its class alone, or class, text, on (listeners), data (data-…), attributes; null, false: none. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

const isNothing = (value) => (value ?? false) === false;

function fill(element, props, children) {
  for (const [name, value] of Object.entries(typeof props === "string" ? { class: props } : props)) {
    if (isNothing(value)) continue;
    if (name === "class") element.setAttribute("class", value);
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => !isNothing(child)));
  return element;
}

/** Return a button; its key finds it again after its panel was filled anew. */
export function button(text, key, onClick, props = {}) {
  return el("button", { type: "button", text, data: { key }, on: { click: onClick }, ...props });
}

/** Return a span of a class. */
export const span = (kind, text) => el("span", kind, text);

/** Return the element of an id. */
export const byId = (id) => document.getElementById(id);

/** Return what stands where there is nothing to show. */
export const nothing = (title, ...more) => el("div", "empty", el("p", "empty-title", title), ...more);

/** Return a form whose fields (FormData) go to a function, and its button. */
export function form(kind, onSubmit, ...children) {
  const submit = (event) => {
    event.preventDefault();
    onSubmit(new FormData(event.target), event.target);
  };
  return el("form", { class: kind, on: { submit } }, ...children);
}

export const submitButton = (text, props = {}) => el("button", { type: "submit", class: "primary", text, ...props });

/** Return a field under its label. */
export const labelled = (label, field) => el("label", "choice", el("span", {}, label), field);

/** Replace the children; focus (by data-key) and places of scrolling stay. */
export function refill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset.key;
  const scrolled = [...parent.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
  parent.replaceChildren(...children.flat().filter(Boolean));
  parent.querySelectorAll(".scroll").forEach((each, at) => each.scrollTo(...(scrolled[at] ?? [0, 0])));
  const heir = parent.contains(focused) ? focused : [...parent.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
  if (focused && document.activeElement !== heir) heir?.focus({ preventScroll: true });
  return parent;
}

/** Set the text of an element, if it is another one: a screen reader then reads nothing twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Return a table; `columns`: titles, or {number: title}; `rows`: arrays of text or elements, the first one heading its row. */
export function table(caption, columns, rows, props = {}) {
  const kind = (column) => (column.number ? "number" : null);
  const cellOf = (cell, at) => (at === 0 ? el("th", { scope: "row" }, cell) : el("td", { class: kind(columns[at]) }, cell));
  const heads = columns.map((column) => el("th", { scope: "col", class: kind(column), text: column.number ?? column }));
  const body = rows.map((cells) => el("tr", {}, cells.map(cellOf)));
  return el("table", props, el("caption", "hidden-visually", caption), el("thead", {}, el("tr", {}, heads)), el("tbody", {}, body));
}

/** Return a select with a label. */
export function choice(label, name, options, value, onChange) {
  const each = options.map(([key, text]) => el("option", { value: key, text, selected: key === value }));
  const select = el("select", { name, on: { change: () => onChange(select.value) } }, each);
  return labelled(label, select);
}
