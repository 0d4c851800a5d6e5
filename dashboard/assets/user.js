// The panel of one user: the newest events of each kind, as one timeline.

import { address } from "./address.js";
import { el, form, labelled, nothing, span, submitButton } from "./dom.js";
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
  const look = () => address.change({ cookie: input.value }) || panel.refresh();
  panel.content.before(form("ask", look, labelled("Cookie", input), submitButton("Show")));
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

const idle = () => el("p", "hint", "Type a user’s cookie to see what that user did last.");

const isEmpty = (data) => data.views.length + data.buys.length === 0;

function empty() {
  return nothing("No events of this user", el("p", {}, "Cookies are compared letter by letter; events are kept for worker.horizon_s."));
}

function render(data, fields) {
  const events = [...data.views, ...data.buys].sort((one, other) => (one.time < other.time) - (one.time > other.time));
  const limits = [data.views, data.buys].some((each) => each.length >= LIMIT) ? ` (the newest ${LIMIT} of each kind)` : "";
  const summary = `${plural(data.views.length, "view")}, ${plural(data.buys.length, "buy")}${limits}, newest first, ${zone.name}`;
  const scroll = el("div", { class: "scroll tall", tabindex: "0", role: "group", "aria-label": `Timeline of ${fields.cookie}`, data: { key: "timeline" } }, el("ol", "timeline", events.map(eventOf)));
  return [el("p", { class: "summary", role: "status", text: summary }), scroll];
}

function eventOf(event) {
  const { time, action, price, ...others } = leavesOf(event);
  const at = el("time", { datetime: time, title: time, text: instant(time, "daySecond") });
  const kind = el("span", { class: "badge", data: { kind: dimensions.kinds.indexOf(action) }, text: action });
  const cost = price === undefined ? null : span("event-price", count(price));
  const fields = Object.entries(others).map(([name, value]) => el("span", {}, span("field-name", name), " ", fieldOf(name, String(value))));
  return el("li", {}, at, kind, el("span", "event-fields", fields), cost);
}

/** Return an event's fields but the cookie, those of nested objects among them. */
function leavesOf({ cookie, ...event }) {
  const isNested = (value) => Object(value) === value;
  return Object.fromEntries(Object.entries(event).flatMap(([name, value]) => (isNested(value) ? Object.entries(value) : [[name, value]])));
}

const fieldOf = (name, value) => (dimensions.names.includes(name) ? filterLink(name, value) : value);
