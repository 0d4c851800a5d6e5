// The panel of health: each worker, each partition, and the sinks, from the live figures.

import { el, refill, say, span, table } from "./dom.js";
import { age, count, instant, rate, zone } from "./format.js";
import { live } from "./live.js";

let content;
let foot;

export function startHealth() {
  const section = document.getElementById("health");
  content = el("div", { class: "content" }, el("div", { class: "skeleton", "aria-hidden": "true" }));
  foot = el("span", { class: "source" });
  section.append(content, el("footer", { class: "panel-foot" }, foot));
}

export function showHealth() {
  const section = document.getElementById("health");
  if (!live.data) {
    if (!live.isSilent) return;
    section.dataset.state = "failed";
    refill(content, el("p", { class: "notice failed", text: "No worker answers. This page tries again by itself." }));
    return;
  }
  const { data } = live;
  section.dataset.state = live.isSilent ? "stale" : data.complete === false ? "partial" : "ready";
  refill(content, workersTable(data), partitionsGrid(data));
  say(foot, `From every worker · asked at ${instant(data.at)} ${zone.name}${live.isSilent ? ", not heard since" : ""}`);
}

function state(isGood, good, bad) {
  return span(`badge ${isGood ? "good" : "bad"}`, isGood ? good : bad);
}

function workersTable(data) {
  const columns = [{ title: "worker" }, { title: "state" }, { title: "partitions" }, { title: "events/s", number: true }, { title: "lag", number: true }];
  const rows = data.workers.map((worker) => [
    worker.url,
    state(worker.ready, "ready", "not ready"),
    worker.partitions.join(", ") || "none",
    rate(worker.events_per_s),
    count(worker.lag_records),
  ]);
  return el("div", { class: "scroll" }, table("Workers", columns, rows));
}

function partitionsGrid(data) {
  const missing = new Set(data.missing_partitions ?? []);
  const known = data.partitions.filter(({ partition }) => !missing.has(partition));
  const all = [...known, ...[...missing].map((partition) => ({ partition, isMissing: true }))];
  all.sort((one, other) => one.partition - other.partition);
  return el("ul", { class: "partitions", "aria-label": "Partitions" }, all.map((each) => partitionTile(each, data)));
}

const detail = (text) => span("partition-detail", text);

function partitionTile(partition, data) {
  const head = el("span", { class: "partition-head" }, `partition ${partition.partition}`, " ", state(!partition.isMissing, "counted", "missing"));
  if (partition.isMissing) return el("li", { class: "missing" }, head, detail("no ready worker holds it"));
  const behindS = (Date.parse(data.at) - Date.parse(partition.counted_up_to)) / 1000;
  return el(
    "li",
    {},
    head,
    detail(`${count(partition.lag_records)} records behind`),
    detail(`at offset ${count(partition.position)}`),
    detail(`up to ${age(behindS)} before`),
  );
}
