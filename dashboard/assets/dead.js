// The panel of dead letters: groups by reason, and samples of the chosen one. Never a payload.

import { address } from "./address.js";
import { button, el, nothing, span, table } from "./dom.js";
import { count, instant, plural, zone } from "./format.js";
import { Panel } from "./panel.js";
import { sameRange, timeRange } from "./range.js";
import { askWhere } from "./where.js";

export function startDead() {
  const isEmpty = (data) => !data.groups.length;
  return new Panel("dead", { path: "dead-letters", question, sameAs: sameRange, isEmpty, empty, render });
}

function question() {
  const { from, to } = timeRange();
  return { from, to, reason: address.get("reason") };
}

function empty() {
  const all = address.get("reason") === null ? null : clearReason();
  return nothing("No dead letters in this range", el("p", {}, "Every event that arrived could be counted."), all);
}

const clearReason = () => button("All reasons", "all-reasons", () => address.change({ reason: null }));

function render(data) {
  const isWhole = data.complete !== false;
  const total = data.groups.reduce((sum, group) => sum + group.count, 0);
  const columns = ["reason", "stage", { number: "count" }, "first", "last"];
  const rows = data.groups.map((group) => [reasonOf(group.reason), group.stage, count(group.count), instant(group.first_at, "dayMinute"), instant(group.last_at, "dayMinute")]);
  const summary = isWhole ? `${plural(total, "dead letter")}, by reason, ${zone.name}` : "A part of the dead letters, by reason";
  const chosen = address.get("reason");
  return [
    el("p", "summary", summary, " ", chosen === null ? null : clearReason()),
    el("div", "scroll", table("Dead letters by reason", columns, rows)),
    el("h3", {}, chosen === null ? "Newest" : `Newest of ${chosen}`),
    el("ul", "samples", data.samples.map(sampleOf)),
  ];
}

function reasonOf(reason) {
  const isChosen = address.get("reason") === reason;
  const choose = () => address.change({ reason: isChosen ? null : reason });
  return button(reason, `reason:${reason}`, choose, { class: "link", "aria-pressed": String(isChosen) });
}

function sampleOf({ topic, partition, offset, reason, detail, at }) {
  const place = `${topic} / ${partition} / ${offset}`;
  const props = { class: "link", "aria-label": `Follow it: the event at ${place}` };
  const follow = topic[0] === "/" ? null : button("follow it", `sample:${place}`, () => askWhere(topic, partition, offset), props);
  const foot = el("span", "sample-place", `${place} · ${instant(at, "daySecond")} `, follow);
  return el("li", {}, span("badge bad", reason), span("sample-detail", detail), foot);
}
