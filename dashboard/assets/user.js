// The panel of one user: the newest events of each kind, as one timeline.

import { address } from "./address.js";
import { el, span } from "./dom.js";
import { dimensions, filterLink } from "./filters.js";
import { count, instant, plural, zone } from "./format.js";
import { Panel, SOURCES } from "./panel.js";

const LIMIT = 50;
const USER_CHARACTERS_MAX = 512;

let panel;
let input;

export function startUser() {
  panel = new Panel("user", { path: "user", from: SOURCES.tables, question, render, isEmpty, empty, idle, refreshS: 5 });
  input = el("input", { name: "cookie", maxlength: USER_CHARACTERS_MAX, autocomplete: "off", placeholder: "cookie", required: true });
  const submit = (event) => {
    event.preventDefault();
    if (!address.change({ cookie: input.value })) panel.refresh();
  };
  const form = el(
    "form",
    { class: "ask", on: { submit } },
    el("label", { class: "choice" }, el("span", { text: "Cookie" }), input),
    el("button", { type: "submit", class: "primary", text: "Show" }),
  );
  panel.content.before(form);
  showUserForm();
  return panel;
}

export function showUserForm() {
  const cookie = address.get("cookie", "");
  if (document.activeElement !== input || cookie) input.value = cookie;
}

function question() {
  const cookie = address.get("cookie");
  return cookie === null ? null : { cookie, limit: LIMIT };
}

function idle() {
  return el("p", { class: "hint", text: "Type a user’s cookie to see what that user did last." });
}

const isEmpty = (data) => data.views.length + data.buys.length === 0;

function empty() {
  return el("div", { class: "empty" }, el("p", { class: "empty-title", text: "No events of this user" }), el("p", { text: "Cookies are compared letter by letter; events are kept for worker.horizon_s." }));
}

function render(data, fields) {
  const events = [...data.views, ...data.buys].sort((one, other) => (one.time < other.time ? 1 : one.time > other.time ? -1 : 0));
  const limits = [data.views, data.buys].some((each) => each.length >= LIMIT) ? ` (the newest ${LIMIT} of each kind)` : "";
  const summary = `${plural(data.views.length, "view")}, ${plural(data.buys.length, "buy")}${limits}, newest first, ${zone.name}`;
  const scroll = el("div", { class: "scroll tall", tabindex: "0", role: "group", "aria-label": `Timeline of ${fields.cookie}`, data: { key: "timeline" } });
  scroll.append(el("ol", { class: "timeline" }, events.map(eventOf)));
  return [el("p", { class: "summary", role: "status", text: summary }), scroll];
}

function eventOf(event) {
  const { time, action, price, ...others } = leavesOf(event);
  const at = el("time", { datetime: time, title: time, text: instant(time, "daySecond") });
  const kind = el("span", { class: "badge", data: { kind: dimensions.kinds.indexOf(action) }, text: action });
  const cost = price === undefined ? null : span("event-price", count(price));
  const fields = Object.entries(others).map(([name, value]) => el("span", {}, span("field-name", name), " ", fieldOf(name, String(value))));
  return el("li", {}, at, kind, el("span", { class: "event-fields" }, fields), cost);
}

/** Return an event's fields but the cookie, those of nested objects among them. */
function leavesOf({ cookie, ...event }) {
  const isNested = (value) => value !== null && typeof value === "object";
  return Object.fromEntries(Object.entries(event).flatMap(([name, value]) => (isNested(value) ? Object.entries(value) : [[name, value]])));
}

function fieldOf(name, value) {
  if (!dimensions.names.includes(name)) return value;
  return filterLink(name, value);
}
