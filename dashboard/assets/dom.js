// Build elements. What data says goes in as text only: nothing here parses HTML, so nothing that an event holds can run.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; `props`: class, text, on (listeners), data (data-…), and attributes; null and false leave one out. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.setAttribute("class", value);
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return a button; its key finds it again after its panel was filled anew. */
export function button(text, key, onClick, props = {}) {
  return el("button", { type: "button", text, data: { key }, on: { click: onClick }, ...props });
}

/** Return a span of a class. */
export const span = (kind, text) => el("span", { class: kind, text });

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

/** Return a table; `columns`: {title, number?}, `rows`: arrays of text or elements, the first one heading its row. */
export function table(caption, columns, rows, props = {}) {
  const kind = (column) => (column.number ? "number" : null);
  const cellOf = (cell, at) => (at === 0 ? el("th", { scope: "row" }, cell) : el("td", { class: kind(columns[at]) }, cell));
  return el(
    "table",
    props,
    el("caption", { class: "hidden-visually", text: caption }),
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col", class: kind(column), text: column.title })))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map(cellOf)))),
  );
}

/** Return a select with a label. */
export function choice(label, name, options, value, onChange) {
  const select = el(
    "select",
    { name, on: { change: () => onChange(select.value) } },
    options.map(([key, text]) => el("option", { value: key, text, selected: key === value })),
  );
  return el("label", { class: "choice" }, el("span", { text: label }), select);
}
