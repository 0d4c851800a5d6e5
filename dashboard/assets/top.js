// The panel of the largest values of a dimension; a click filters by one.

import { address } from "./address.js";
import { el, refill, span, table } from "./dom.js";
import { dimensions, filterLink, filters, pick } from "./filters.js";
import { count, share } from "./format.js";
import { Panel } from "./panel.js";
import { sameRange, timeRange } from "./range.js";

const SIZES = ["5", "10", "20", "50"];
const DEFAULT_SIZE = "10";

let panel;

export function startTop() {
  const isEmpty = (data) => !data.rows.length;
  const empty = () => el("p", "empty", "No events in this range.");
  panel = new Panel("top", { path: "top", question, sameAs: sameRange, isEmpty, empty, render });
  showTopTools();
  return panel;
}

/** Return the first dimension that says more than the kind of event. */
const first = () => dimensions.names[1] ?? dimensions.names[0];

function dimension() {
  const chosen = address.get("top");
  return dimensions.names.includes(chosen) ? chosen : first();
}

export function showTopTools() {
  const names = dimensions.names.map((name) => [name, name]);
  const sizes = SIZES.map((size) => [size, `top ${size}`]);
  refill(panel.tools, pick("Dimension", "top", names, first()), pick("How many", "n", sizes, DEFAULT_SIZE));
}

function question() {
  const { from, to } = timeRange();
  return { dimension: dimension(), n: address.get("n", DEFAULT_SIZE), from, to, ...filters(), source: address.get("source") };
}

function render(data, fields) {
  const isWhole = data.complete !== false;
  const sum = dimensions.sums[0];
  const columns = [fields.dimension, ...["events", "share", ...(sum ? [`sum of ${sum}`] : [])].map((number) => ({ number }))];
  const most = Math.max(1, ...data.rows.map((row) => row.count));
  const line = (head, row) => [head, count(row.count), isWhole ? share(row.share) : "–", ...(sum ? [count(row.sum_price)] : [])];
  const rows = data.rows.map((row) => line(valueOf(fields.dimension, row, most), row));
  const withShare = (row) => ({ ...row, share: row.count / data.total.count });
  const totals = isWhole ? [line("others", withShare(data.others)), line("total", withShare(data.total))] : [];
  const shown = table(`Top values of ${fields.dimension}`, columns, [...rows, ...totals], { class: "top-table" });
  if (isWhole) [...shown.tBodies[0].rows].slice(-2).forEach((row) => row.classList.add("sum-row"));
  return el("div", "scroll", shown);
}

function valueOf(name, row, most) {
  const bar = span("bar", "");
  bar.style.width = `${(100 * row.count) / most}%`;
  return el("span", "valued", bar, filterLink(name, row.key));
}
