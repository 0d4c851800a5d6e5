// The range of time that the panels show, from the address: so much up to now, or from one instant to another.

import { address } from "./address.js";
import { live } from "./live.js";

const HOUR_S = 3_600;
const DAY_S = 86_400;
const MINUTES_UP_TO_S = 6 * HOUR_S;
const HOURS_UP_TO_S = 31 * DAY_S;

export const RANGES = [
  ["15m", "15 m", 900],
  ["1h", "1 h", HOUR_S],
  ["6h", "6 h", MINUTES_UP_TO_S],
  ["24h", "24 h", DAY_S],
  ["7d", "7 d", 7 * DAY_S],
  ["31d", "31 d", HOURS_UP_TO_S],
];
export const DEFAULT_RANGE = "1h";

/** Return the width of the buckets (seconds) that a range of so many seconds is shown in. */
const stepOf = (rangeS) => (rangeS <= MINUTES_UP_TO_S ? 60 : rangeS <= HOURS_UP_TO_S ? HOUR_S : DAY_S);

/** Return `from` and `to` as ISO texts on bounds of buckets, and the name of the range ("" where both were given). */
export function timeRange() {
  const from = Date.parse(address.get("from"));
  const to = Date.parse(address.get("to"));
  if (from < to) return { ...aligned(from / 1000, to / 1000), name: "" };
  const called = (wanted) => RANGES.find(([name]) => name === wanted);
  const [name, , rangeS] = called(address.get("range")) ?? called(DEFAULT_RANGE);
  const stepS = stepOf(rangeS);
  const toS = (Math.floor(live.nowMs() / 1000 / stepS) + 1) * stepS;
  return { ...texts(toS - rangeS, toS), name };
}

/** Return what tells one question from another: a range up to now moves on and is the same one. */
export function sameRange(fields) {
  const { name } = timeRange();
  return JSON.stringify(name ? { ...fields, from: name, to: null } : fields);
}

function aligned(fromS, toS) {
  const stepS = stepOf(toS - fromS);
  return texts(Math.floor(fromS / stepS) * stepS, Math.ceil(toS / stepS) * stepS);
}

function texts(fromS, toS) {
  const text = (s) => new Date(s * 1000).toISOString().replace(".000Z", "Z");
  return { from: text(fromS), to: text(toS) };
}
