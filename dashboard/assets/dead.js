// The panel of dead letters: groups by reason, and samples of the chosen one. Never a payload.

import { address } from "./address.js";
import { button, el, span, table } from "./dom.js";
import { count, instant, plural, zone } from "./format.js";
import { Panel } from "./panel.js";
import { sameRange, timeRange } from "./range.js";
import { askWhere } from "./where.js";

export function startDead() {
  return new Panel("dead", {
    path: "dead-letters",
    question,
    sameAs: sameRange,
    isEmpty: (data) => data.groups.length === 0,
    empty,
    render,
  });
}

function question() {
  const { from, to } = timeRange();
  return { from, to, reason: address.get("reason") };
}

function empty() {
  const all = address.get("reason") === null ? null : clearReason();
  return el("div", { class: "empty good" }, el("p", { class: "empty-title", text: "No dead letters in this range" }), el("p", { text: "Every event that arrived could be counted." }), all);
}

function clearReason() {
  return button("All reasons", "all-reasons", () => address.change({ reason: null }));
}

function render(data) {
  const isWhole = data.complete !== false;
  const total = data.groups.reduce((sum, group) => sum + group.count, 0);
  const columns = [{ title: "reason" }, { title: "stage" }, { title: "count", number: true }, { title: "first" }, { title: "last" }];
  const rows = data.groups.map((group) => [reasonOf(group.reason), group.stage, count(group.count), instant(group.first_at, "dayMinute"), instant(group.last_at, "dayMinute")]);
  const summary = isWhole ? `${plural(total, "dead letter")}, by reason, ${zone.name}` : "A part of the dead letters, by reason";
  const chosen = address.get("reason");
  return [
    el("p", { class: "summary" }, summary, " ", chosen === null ? null : clearReason()),
    el("div", { class: "scroll" }, table("Dead letters by reason", columns, rows)),
    el("h3", { text: chosen === null ? "Newest" : `Newest of ${chosen}` }),
    el("ul", { class: "samples" }, data.samples.map(sampleOf)),
  ];
}

function reasonOf(reason) {
  const isChosen = address.get("reason") === reason;
  const choose = () => address.change({ reason: isChosen ? null : reason });
  return button(reason, `reason:${reason}`, choose, { class: "link", "aria-pressed": String(isChosen) });
}

function sampleOf(sample) {
  const place = `${sample.topic} / ${sample.partition} / ${sample.offset}`;
  const props = { class: "link", "aria-label": `Follow it: the event at ${place}` };
  const follow = button("follow it", `sample:${place}`, () => askWhere(sample.partition, sample.offset), props);
  return el(
    "li",
    {},
    span("badge bad", sample.reason),
    span("sample-detail", sample.detail),
    el("span", { class: "sample-place" }, `${place} · ${instant(sample.at, "daySecond")} `, follow),
  );
}
