// The panel of health: each worker, each partition, and the sinks, from the live figures.

import { byId, el, refill, say, span, table } from "./dom.js";
import { age, count, instant, rate, zone } from "./format.js";
import { live } from "./live.js";

let content;
let foot;

export function startHealth() {
  const section = byId("health");
  content = el("div", "content", el("div", { class: "skeleton", "aria-hidden": "true" }));
  foot = el("span", "source");
  section.append(content, el("footer", "panel-foot", foot));
}

export function showHealth() {
  const { data } = live;
  if (!data && !live.isSilent) return;
  byId("health").dataset.state = live.state;
  if (!data) {
    refill(content, el("p", "notice failed", "No worker answers. This page tries again by itself."));
    return;
  }
  refill(content, workersTable(data), partitionsGrid(data));
  say(foot, `From every worker · asked at ${instant(data.at)} ${zone.name}${live.isSilent ? ", not heard since" : ""}`);
}

const state = (isGood, good, bad) => span(`badge ${isGood ? "good" : "bad"}`, isGood ? good : bad);

function workersTable(data) {
  const columns = ["worker", "state", "partitions", { number: "events/s" }, { number: "lag" }];
  const rows = data.workers.map(({ url, ready, partitions, events_per_s: perS, lag_records: lag }) => {
    return [url, state(ready, "ready", "not ready"), partitions.join(", ") || "none", rate(perS), count(lag)];
  });
  return el("div", "scroll", table("Workers", columns, rows));
}

function partitionsGrid(data) {
  const missing = new Set(data.missing_partitions);
  const known = data.partitions.filter(({ partition }) => !missing.has(partition));
  const all = [...known, ...[...missing].map((partition) => ({ partition, isMissing: true }))];
  all.sort((one, other) => one.partition - other.partition);
  return el("ul", { class: "partitions", "aria-label": "Partitions" }, all.map((each) => partitionTile(each, data)));
}

const detail = (text) => span("partition-detail", text);

function partitionTile(partition, data) {
  const head = el("span", "partition-head", `partition ${partition.partition}`, " ", state(!partition.isMissing, "counted", "missing"));
  if (partition.isMissing) return el("li", "missing", head, detail("no ready worker holds it"));
  const behindS = (Date.parse(data.at) - Date.parse(partition.counted_up_to)) / 1000;
  const said = [`${count(partition.lag_records)} records behind`, `at offset ${count(partition.position)}`, `up to ${age(behindS)} before`];
  return el("li", {}, head, said.map(detail));
}
