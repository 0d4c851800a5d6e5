// "Why is my event missing?": ask by its place in Kafka, or by user and time, and read the way it took.

import { address } from "./address.js";
import { el, form, labelled, span, submitButton } from "./dom.js";
import { Panel } from "./panel.js";

const NAMES = { topic: "event_topic", partition: "event_partition", offset: "event_offset", cookie: "event_cookie", time: "event_time" };
const PLACES = { kafka: "Kafka", worker: "Worker", postgres: "Postgres", dead_letters: "Dead letters" };
const KINDS = { counted: "good", dead_letter: "bad", not_received: "bad", unknown: "bad" };

let panel;
let forms;

export function startWhere() {
  panel = new Panel("where", { path: "where", from: "Kafka, the worker and Postgres", question, render, idle, exports: false });
  forms = { place: placeForm(), user: userForm() };
  panel.content.before(el("div", "ask-both", forms.user, el("p", "or", "or"), forms.place));
  showWhereForm();
  return panel;
}

/** Ask for an event by its place in Kafka, as a dead letter's row does. */
export function askWhere(topic, partition, offset) {
  change({ topic, partition, offset });
  panel.section.scrollIntoView({ block: "nearest" });
  forms.place.querySelector("button").focus({ preventScroll: true });
}

export function showWhereForm() {
  for (const input of panel.section.querySelectorAll("input")) {
    if (document.activeElement !== input) input.value = address.get(NAMES[input.name], "");
  }
}

function field(name, label, attributes) {
  return labelled(label, el("input", { name, required: true, autocomplete: "off", ...attributes }));
}

function placeForm() {
  const number = { inputmode: "numeric", pattern: "[0-9]{1,19}", title: "digits" };
  return askForm([field("partition", "Partition", { ...number, class: "short" }), field("offset", "Offset", number)]);
}

function userForm() {
  return askForm([field("cookie", "Cookie", { maxlength: 512 }), field("time", "Event time", { placeholder: "2022-03-22T12:15:00.000Z" })]);
}

function askForm(fields) {
  return form("ask", (given) => change(Object.fromEntries(given)), fields, submitButton("Look"));
}

function change(fields) {
  const changes = Object.entries(NAMES).map(([name, key]) => [key, fields[name] ?? null]);
  if (!address.change(Object.fromEntries(changes))) panel.refresh();
}

function question() {
  const [topic, partition, offset, cookie, time] = Object.values(NAMES).map((key) => address.get(key));
  if (partition !== null && offset !== null) return { topic, partition, offset };
  return cookie !== null && time !== null ? { cookie, time } : null;
}

const idle = () => el("p", "hint", "Every event can be followed from Kafka into the counts: by user and event time, or by partition and offset.");

function render(data) {
  panel.options.refreshS = data.verdict === "pending" ? 5 : 60; // Each search reads Kafka.
  const kind = `badge ${KINDS[data.verdict] ?? "middling"}`;
  const verdict = el("p", { class: "verdict", role: "status" }, span(kind, data.verdict.replaceAll("_", " ")), ` ${data.sentence}`);
  const step = ({ where, found, text }) => {
    const [kind, said] = found ? ["found", "found"] : ["absent", "not found"];
    return el("li", kind, span("step-place", PLACES[where] ?? where), span("step-found", said), span("step-text", text));
  };
  return [verdict, el("ol", "steps", data.steps.map(step))];
}
