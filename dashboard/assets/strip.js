// The strip of live figures, and the word about the connection.

import { announce } from "./announce.js";
import { byId, el, say, svg } from "./dom.js";
import { age, count, instant, plural, rate, zone } from "./format.js";
import { live } from "./live.js";

const FRESH_WARN_S = 10; // The contract's bound for what profiles and charts may lag behind.
const FRESH_BAD_S = 60;
const SPARK_POINTS = 60;
const MODES = { connecting: "connecting", stream: "live", poll: "every 10 s", lost: "reconnecting", paused: "paused" };

const rates = [];
let lastAt = null;
let saidFresh = null;

export function showStrip() {
  showConnection();
  const { data } = live;
  byId("strip").dataset.state = live.state;
  if (!data) return;
  if (data.at !== lastAt) {
    lastAt = data.at;
    rates.push(data.events_per_s);
    if (rates.length > SPARK_POINTS) rates.shift();
    showSpark();
  }
  showRate(data);
  showFresh(data);
  showLag(data);
  showWhole(data);
  showSinks(data);
  tile("dead", count(data.dead_letters.total), `${rate(data.dead_letters.per_minute)} a minute · since start`, data.dead_letters.per_minute > 0 ? "warn" : "good");
}

function tile(name, figure, detail, state = "plain") {
  const element = byId(`tile-${name}`);
  element.dataset.state = state;
  say(element.querySelector(".figure"), figure);
  say(element.querySelector(".detail"), detail);
}

function showConnection() {
  const element = byId("connection");
  const before = element.dataset.mode;
  if (before === live.mode) return;
  if (live.mode === "lost") announce("connection", "The connection is lost; trying again");
  else if (before === "lost" && live.mode !== "paused") announce("connection", "Connected again");
  element.dataset.mode = live.mode;
  say(element.lastElementChild, MODES[live.mode]);
}

const atLeast = (data) => (data.complete === false ? "≥ " : "");

function showRate(data) {
  tile("rate", atLeast(data) + rate(data.events_per_s), data.complete === false ? "of the partitions that answer" : "counted now");
}

const stateOf = (seconds) => (seconds <= FRESH_WARN_S ? "good" : seconds <= FRESH_BAD_S ? "warn" : "bad");

/** Show how fresh the counts are; while nothing is heard the age grows by itself. */
function showFresh(data) {
  const sinceS = live.isPaused ? 0 : (live.nowMs() - Date.parse(data.at)) / 1000;
  const seconds = (data.freshness_s ?? NaN) + Math.max(0, sinceS);
  const state = stateOf(seconds);
  const when = data.counted_up_to ? `${instant(data.counted_up_to)} ${zone.name}` : "a part is missing";
  tile("fresh", Number.isFinite(seconds) ? `${age(seconds)} ago` : "unknown", state === "good" ? when : `${when} · not fresh`, state);
  if ((saidFresh ?? state) !== state) announce("fresh", state === "good" ? "The counts are fresh again" : `The counts are ${age(seconds)} old`);
  saidFresh = state;
}

function showLag(data) {
  const seconds = Number.isFinite(data.lag_s) ? age(data.lag_s) : "time unknown";
  tile("lag", atLeast(data) + count(data.lag_records), `records · ${seconds}`, data.complete === false ? "warn" : stateOf(data.lag_s));
}

function showWhole(data) {
  const missing = data.missing_partitions;
  const ready = data.workers.filter((worker) => worker.ready).length;
  const all = plural(data.workers.length, "worker");
  const workers = ready === data.workers.length ? all : `${ready} of ${all} ready`;
  if (live.isSilent) tile("whole", "unknown", "no answer; trying again", "bad");
  else if (data.complete === false) tile("whole", "partial", `${missing.length ? `missing: ${missing.join(", ")}` : "recovering"} · ${workers}`, "bad");
  else tile("whole", "whole", `${plural(data.partitions.length, "partition")} · ${workers}`, "good");
}

function showSinks(data) {
  const { state, lag_records: lag, last_success: written } = data.sinks;
  const since = written ? ` · written ${age((Date.parse(data.at) - Date.parse(written)) / 1000)} ago` : "";
  tile("sinks", state, `${count(lag)} behind${since}`, { ok: "good", down: "bad" }[state] ?? "warn");
}

function showSpark() {
  const most = Math.max(1, ...rates);
  const points = rates.map((value, at) => `${at},${(20 - (18 * value) / most).toFixed(1)}`).join(" ");
  const line = svg("polyline", { points, fill: "none", stroke: "currentColor", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" });
  const spark = svg("svg", { class: "spark", viewBox: `0 0 ${Math.max(15, rates.length - 1)} 21`, preserveAspectRatio: "none" }, line);
  const tileOfRate = byId("tile-rate");
  tileOfRate.querySelector(".spark-place")?.remove();
  tileOfRate.append(el("dd", { class: "spark-place", "aria-hidden": "true" }, spark));
}
