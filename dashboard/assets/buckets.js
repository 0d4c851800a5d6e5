// Turn series of points into columns of equal buckets: pure, so that chart, table and summary say the same.

/** How many keys have a colour of their own; the others are added up. */
export const KEYS_MAX = 7;

/**
 * Return the columns of an answer of `series`, whose points are [seconds, count, sum], for the range that was asked.
 *
 * @param measure place of the figure in a point
 * @returns times (seconds), open (place of the first bucket that may still change), columns: {key, rest?, values, total},
 *   largest first; a bucket that has not begun by `as_of` is null
 */
export function columnsOf(data, fields, measure) {
  const stepS = data.step_s;
  const firstS = Math.floor(Date.parse(fields.from) / 1000 / stepS) * stepS;
  const size = Math.max(1, Math.ceil((Date.parse(fields.to) / 1000 - firstS) / stepS));
  const times = Array.from({ length: size }, (_, at) => firstS + at * stepS);
  const begun = Math.min(size, Math.floor((Date.parse(data.as_of ?? fields.to) / 1000 - firstS) / stepS) + 1);
  const shape = { firstS, stepS, size, begun, measure };
  const columns = data.series.map(({ key, points }) => columnOf(key, points, shape));
  columns.sort((one, other) => other.total - one.total);
  if (data.others) columns.push({ ...columnOf("others", data.others, shape), rest: true });
  const openS = Date.parse(data.open_from) / 1000;
  const open = times.findIndex((time) => time + stepS > openS);
  return { times, stepS, open: open < 0 ? size : open, columns: atMost(columns, size) };
}

function columnOf(key, points, { firstS, stepS, size, begun, measure }) {
  const values = Array.from({ length: size }, (_, at) => (at < begun ? 0 : null));
  let total = 0;
  for (const point of points) {
    const at = Math.floor((point[0] - firstS) / stepS);
    if (at < 0 || at >= size || (at >= begun && !point[1])) continue;
    values[at] = (values[at] ?? 0) + point[measure];
    total += point[measure];
  }
  return { key, values, total };
}

function atMost(columns, size) {
  if (columns.length <= KEYS_MAX + 1) return columns;
  const others = columns.slice(KEYS_MAX);
  const values = Array.from({ length: size }, (_, at) => sumOrNull(others.map((column) => column.values[at])));
  const total = others.reduce((sum, column) => sum + column.total, 0);
  return [...columns.slice(0, KEYS_MAX), { key: "others", rest: true, values, total }];
}

function sumOrNull(values) {
  return values.every((value) => value === null) ? null : values.reduce((sum, value) => sum + (value ?? 0), 0);
}

/** Return the place of the largest sum over all columns, or -1 without events. */
export function peakOf({ times, columns }) {
  const sums = times.map((_, at) => sumOrNull(columns.map((column) => column.values[at])) ?? 0);
  const peak = sums.indexOf(Math.max(...sums));
  return sums[peak] ? { at: peak, value: sums[peak] } : { at: -1, value: 0 };
}
