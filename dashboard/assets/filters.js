// The bar of range and filters: it only changes the address, from which every panel reads.

import { address } from "./address.js";
import { button, byId, choice, el, form, labelled, refill, span, submitButton } from "./dom.js";
import { named, zone } from "./format.js";
import { DEFAULT_RANGE, RANGES, timeRange } from "./range.js";

/** What the stream can be asked by; filled once when the page starts. */
export const dimensions = { names: [], kinds: [], sums: [], stream: "" };

let draft = { name: null, value: "" };

/** Return the active filters by dimension; an empty text filters too. */
export function filters() {
  return Object.fromEntries(dimensions.names.map((name) => [name, address.get(name)]).filter(([, value]) => value !== null));
}

const setFilter = (name, value) => address.change({ [name]: value });

/** Return a value as a button that filters by it. */
export function filterLink(name, value) {
  return button(named(value), `${name}:${value}`, () => setFilter(name, value), { class: "link", title: `only ${name} ${value}` });
}

/** Return a select that keeps its value in the address; the fallback needs no word there. */
export function pick(label, name, options, fallback) {
  const value = address.get(name, fallback);
  return choice(label, name, options, value, (now) => address.change({ [name]: now === fallback ? null : now }));
}

export const clearFilters = () => address.change(Object.fromEntries(dimensions.names.map((name) => [name, null])));

export function showFilters() {
  const section = byId("filters");
  refill(section, section.querySelector("h2"), rangeButtons(), custom(), filterForm(), chips());
}

function rangeButtons() {
  const shown = timeRange().name;
  const choose = (name) => () => address.change({ range: name === DEFAULT_RANGE ? null : name, from: null, to: null });
  const each = ([name, text]) => button(text, `range:${name}`, choose(name), { "aria-pressed": String(name === shown) });
  return el("div", { class: "segments", role: "group", "aria-label": "Range" }, RANGES.map(each));
}

function custom() {
  const isOpen = document.querySelector(".custom")?.open;
  const { from, to, name } = timeRange();
  const field = (label, key, value) =>
    el("label", {}, el("span", {}, label), el("input", { type: "datetime-local", name: key, value: toField(value), required: true }));
  const fields = [field(`From (${zone.name})`, "from", from), field(`To (${zone.name})`, "to", to)];
  const own = form(null, applyCustom, fields, submitButton("Show", { data: { key: "custom-show" } }));
  const summary = el("summary", { text: name === "" ? "Own range ✓" : "Own range", data: { key: "custom" } });
  return el("details", { class: "custom", open: isOpen }, summary, own);
}

function applyCustom(fields, shown) {
  const [from, to] = ["from", "to"].map((key) => fromField(fields.get(key)));
  shown.elements.to.setCustomValidity(from < to ? "" : "the end must be after the start");
  if (!shown.reportValidity()) return;
  shown.parentElement.open = false;
  address.change({ from, to, range: null });
}

/** Return an instant as the field wants it: minutes, in the zone that is shown. */
function toField(text) {
  const date = new Date(text);
  const shifted = zone.isLocal ? new Date(date - date.getTimezoneOffset() * 60_000) : date;
  return shifted.toISOString().slice(0, 16);
}

function fromField(text) {
  const date = new Date(zone.isLocal ? text : `${text}Z`);
  return isNaN(date) ? "" : date.toISOString().replace(".000Z", "Z");
}

function filterForm() {
  draft.name ??= dimensions.names[0];
  const options = dimensions.names.map((name) => [name, name]);
  const names = choice("Filter", "filter-name", options, draft.name, (name) => (draft.name = name));
  const props = { name: "filter-value", value: draft.value, maxlength: 512, placeholder: "exact value", autocomplete: "off" };
  const input = el("input", { ...props, data: { key: props.name }, on: { input: () => (draft.value = input.value) } });
  const set = () => {
    const { name, value } = draft;
    draft = { name, value: "" };
    setFilter(name, value);
  };
  return form("add-filter", set, names, labelled("Value", input), submitButton("Add", { class: null, data: { key: "filter-add" } }));
}

function chips() {
  const active = Object.entries(filters());
  if (!active.length) return null;
  const chip = ([name, value]) => {
    const out = button("×", `chip:${name}`, () => setFilter(name, null), { "aria-label": `Remove the filter ${name} ${value}` });
    return el("li", {}, span("chip-name", name), span("chip-value", named(value)), out);
  };
  const all = active.length > 1 ? el("li", {}, button("clear all", "chips", clearFilters, { class: "link" })) : null;
  return el("ul", { class: "chips", "aria-label": "Active filters" }, active.map(chip), all);
}
