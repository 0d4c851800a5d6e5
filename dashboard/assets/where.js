// "Why is my event missing?": ask by its place in Kafka, or by user and time, and read the way it took.

import { address } from "./address.js";
import { el, span } from "./dom.js";
import { Panel } from "./panel.js";

const NAMES = { partition: "event_partition", offset: "event_offset", cookie: "event_cookie", time: "event_time" };
const PLACES = { kafka: "Kafka", worker: "Worker", postgres: "Postgres", dead_letters: "Dead letters" };
const GOOD = ["counted"];
const BAD = ["dead_letter", "not_received", "unknown"];

let panel;
let forms;

export function startWhere() {
  panel = new Panel("where", { path: "where", from: "Kafka, the worker and Postgres", question, render, idle, exports: false });
  forms = { place: placeForm(), user: userForm() };
  panel.content.before(el("div", { class: "ask-both" }, forms.user, el("p", { class: "or", text: "or" }), forms.place));
  showWhereForm();
  return panel;
}

/** Ask for an event by its place in Kafka, as a dead letter's row does. */
export function askWhere(partition, offset) {
  change({ partition, offset });
  panel.section.scrollIntoView({ block: "nearest" });
  forms.place.querySelector("button").focus({ preventScroll: true });
}

export function showWhereForm() {
  for (const form of Object.values(forms)) {
    for (const input of form.querySelectorAll("input")) {
      if (document.activeElement !== input) input.value = address.get(NAMES[input.name], "");
    }
  }
}

function field(name, label, attributes) {
  return el("label", { class: "choice" }, span("", label), el("input", { name, required: true, autocomplete: "off", ...attributes }));
}

function placeForm() {
  const number = { inputmode: "numeric", pattern: "[0-9]{1,19}", title: "digits" };
  return askForm([field("partition", "Partition", { ...number, class: "short" }), field("offset", "Offset", number)]);
}

function userForm() {
  return askForm([field("cookie", "Cookie", { maxlength: 512 }), field("time", "Event time", { placeholder: "2022-03-22T12:15:00.000Z" })]);
}

function askForm(fields) {
  const submit = (event) => {
    event.preventDefault();
    change(Object.fromEntries(new FormData(event.target)));
  };
  return el("form", { class: "ask", on: { submit } }, fields, el("button", { type: "submit", class: "primary", text: "Look" }));
}

function change(fields) {
  const changes = Object.entries(NAMES).map(([name, key]) => [key, fields[name] ?? null]);
  if (!address.change(Object.fromEntries(changes))) panel.refresh();
}

function question() {
  const fields = Object.fromEntries(Object.entries(NAMES).map(([name, key]) => [name, address.get(key)]));
  if (fields.partition !== null && fields.offset !== null) return { partition: fields.partition, offset: fields.offset };
  return fields.cookie !== null && fields.time !== null ? { cookie: fields.cookie, time: fields.time } : null;
}

function idle() {
  return el("p", { class: "hint", text: "Every event can be followed from Kafka into the counts: by user and event time, or by partition and offset." });
}

function render(data) {
  panel.options.refreshS = data.verdict === "pending" ? 5 : 60; // Each search reads Kafka.
  const kind = GOOD.includes(data.verdict) ? "good" : BAD.includes(data.verdict) ? "bad" : "middling";
  const verdict = el("p", { class: "verdict", role: "status" }, span(`badge ${kind}`, data.verdict.replaceAll("_", " ")), ` ${data.sentence}`);
  const step = ({ where, found, text }) =>
    el(
      "li",
      { class: found ? "found" : "absent" },
      span("step-place", PLACES[where] ?? where),
      span("step-found", found ? "found" : "not found"),
      span("step-text", text),
    );
  return [verdict, el("ol", { class: "steps" }, data.steps.map(step))];
}
