// The panel of events over time: chart, legend, table and summary of the same columns.

import { address } from "./address.js";
import { columnsOf, KEYS_MAX, peakOf } from "./buckets.js";
import { Chart, dashOf } from "./chart.js";
import { button, el, refill, say, span, svg, table } from "./dom.js";
import { emptyState } from "./empty.js";
import { dimensions, filterLink, filters, pick } from "./filters.js";
import { bucketForm, count, instant, named, zone } from "./format.js";
import { Panel } from "./panel.js";
import { sameRange, timeRange } from "./range.js";

const LONG_REFRESH_S = 30;
const STEP_NAMES = { 60: "minute", 3600: "hour", 86400: "day" };
const MEASURES = { count: 1, sum: 2 };

let panel;
let chart;
let parts;
let columns;
let cursorAt = null;

export function startSeries() {
  const isEmpty = (data) => data.series.every(({ points }) => points.every((point) => point[1] === 0));
  panel = new Panel("series", { path: "series", question, sameAs: sameRange, isEmpty, empty: emptyState, render });
  parts = build();
  chart = new Chart(parts.plot, showCursor);
  showTools();
  return panel;
}

export function showTools() {
  const by = [["", "all together"], ...dimensions.names.map((name) => [name, `by ${name}`])];
  const measures = [["count", "events"], ...dimensions.sums.slice(0, 1).map((name) => ["sum", `sum of ${name}`])];
  const sources = [["", "source: best"], ["tables", "source: tables"], ["postgres", "source: Postgres"]];
  const isTable = parts.figure.classList.contains("as-table");
  const toggle = () => {
    parts.rows.tabIndex = parts.figure.classList.toggle("as-table") ? 0 : -1;
    showTools();
    chart.resize();
  };
  const asTable = button("Table", "as-table", toggle, { "aria-pressed": String(isTable), title: "show as a table" });
  const labels = [pick("What is counted", "measure", measures, "count"), pick("Split by", "by", by, ""), pick("Source", "source", sources, "")];
  refill(panel.tools, labels, asTable);
}

function question() {
  const { from, to, name } = timeRange();
  panel.options.refreshS = name === "" || Date.parse(to) - Date.parse(from) > 21_600_000 ? LONG_REFRESH_S : 10;
  return { from, to, ...filters(), by: address.get("by"), source: address.get("source") };
}

function build() {
  const plot = el("div", { class: "plot", "aria-hidden": "true" });
  const cursor = el("div", { class: "cursor", role: "slider", tabindex: "0", "aria-label": "Bucket", "aria-valuemin": "0", on: { keydown: move } }, plot);
  const legend = el("ul", "legend");
  const at = el("p", "cursor-text");
  const rows = el("div", { class: "table-of-chart scroll", role: "group", "aria-label": "Table" });
  const summary = el("figcaption", "summary");
  return { plot, cursor, legend, at, rows, summary, figure: el("figure", "chart", summary, cursor, at, legend, rows) };
}

function render(data, fields) {
  columns = columnsOf(data, fields, MEASURES[address.get("measure")] ?? MEASURES.count);
  if (cursorAt >= columns.times.length) cursorAt = null;
  parts.cursor.setAttribute("aria-valuemax", String(columns.times.length - 1));
  say(parts.summary, summaryOf(data, fields));
  // The plot measures its element, which is put into the page after this returns.
  requestAnimationFrame(() => chart.draw(columns, colours()));
  showLegend(data);
  showTable();
  showCursor(cursorAt);
  return parts.figure;
}

function summaryOf(data, fields) {
  const what = address.get("measure") === "sum" ? dimensions.sums[0] ?? "sum" : "events";
  const total = columns.columns.reduce((sum, column) => sum + column.total, 0);
  const peak = peakOf(columns);
  const range = `${instant(fields.from, "dayMinute")} to ${instant(fields.to, "dayMinute")} ${zone.name}`;
  const most = peak.at < 0 ? "" : `; at most ${count(peak.value)} in the ${STEP_NAMES[columns.stepS]} of ${bucket(peak.at)}`;
  // A part is no total, so it is not called one.
  return data.complete === false ? `A part of the ${what} from ${range}` : `${count(total)} ${what} from ${range}${most}`;
}

const bucket = (at) => instant(columns.times[at] * 1000, bucketForm(columns.stepS));

const label = (column) => (column.rest ? column.key : named(column.key));

function showLegend(data) {
  const by = address.get("by");
  const items = columns.columns.map((column, at) => {
    const canFilter = by && column.key !== null && !column.rest;
    const name = canFilter ? filterLink(by, column.key) : span("legend-key", label(column));
    return el("li", {}, swatch(column, at), name, span("legend-value number", ""));
  });
  const open = columns.open < columns.times.length ? el("li", "legend-open", "dotted: may still change") : null;
  refill(parts.legend, items, open);
  parts.legend.dataset.complete = String(data.complete !== false);
}

function swatch(column, at) {
  const line = svg("line", { x1: 0, y1: 5, x2: 26, y2: 5, "stroke-width": 2.5, "stroke-dasharray": dashOf(at).join(" "), stroke: "currentColor" });
  return svg("svg", { class: hueOf(column, at), viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" }, line);
}

const hueOf = (column, at) => `hue-${column.rest ? "rest" : at % (KEYS_MAX + 1)}`;

function showTable() {
  const heads = [`Time (${zone.name})`, ...columns.columns.map((column) => ({ number: label(column) }))];
  const rows = columns.times.map((_, at) => {
    return [bucket(at) + (at < columns.open ? "" : " (open)"), ...columns.columns.map((column) => count(column.values[at]))];
  });
  refill(parts.rows, table("Events over time", heads, rows.reverse()));
}

/** Show the figures of a bucket, or without one the totals. */
function showCursor(at) {
  if (!columns) return;
  const isPartial = panel.data?.complete === false;
  const values = columns.columns.map((column) => (at === null ? (isPartial ? null : column.total) : column.values[at]));
  parts.legend.querySelectorAll(".legend-value").forEach((element, place) => say(element, count(values[place])));
  say(parts.at, at === null ? (isPartial ? "" : "in all") : `${bucket(at)}${at < columns.open ? "" : ", may still change"}`);
  const said = columns.columns.map((column, place) => `${label(column)}: ${count(values[place])}`).join(", ");
  parts.cursor.setAttribute("aria-valuenow", String(at ?? 0));
  parts.cursor.setAttribute("aria-valuetext", at === null ? parts.summary.textContent : `${bucket(at)}: ${said}`);
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };

function move(event) {
  if (!columns || !(event.key in STEPS)) return;
  event.preventDefault();
  const last = columns.times.length - 1;
  cursorAt = Math.min(last, Math.max(0, (cursorAt ?? last) + STEPS[event.key]));
  chart.point(cursorAt);
  showCursor(cursorAt);
}

/** Return colours as the style sheet gives them now; a canvas cannot ask for itself. */
function colours() {
  const probe = el("span", "probe");
  document.body.append(probe);
  const read = (name) => {
    probe.setAttribute("class", `probe ${name}`);
    return getComputedStyle(probe).color;
  };
  const lines = columns.columns.map((column, at) => read(hueOf(column, at)));
  const [ink, grid, open, fill] = ["muted", "grid", "open", "fill"].map((name) => read(`ink-${name}`));
  probe.remove();
  return { lines, ink, grid, open, fill };
}

