// A line chart by uPlot: what is closed is drawn whole, what may still change is dotted on a shaded ground.

import { bucketForm, instant, short, zone } from "./format.js";

const HEIGHT_WIDE = 390;
const HEIGHT_NARROW = 210;
const NARROW_PX = 520;
const OPEN_DASH = [2, 4];
const DASHES = [[], [9, 4], [3, 3], [12, 3, 3, 3], [6, 2], [14, 5], [5, 3, 1, 3], [2, 2]];
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/** Return the dashes of the line at a place: a second sign beside the colour. */
export const dashOf = (at) => DASHES[at % DASHES.length];

export class Chart {
  constructor(parent, onCursor) {
    this.parent = parent;
    this.onCursor = onCursor;
    this.plot = null;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(parent);
  }

  /** Draw columns (see `columnsOf`); the plot is made anew only when its lines are others. */
  draw(columns, colours) {
    this.columns = columns;
    const shape = JSON.stringify([columns.columns.map(({ key }) => key), colours, zone.isLocal, columns.stepS]);
    const data = plotData(columns);
    if (this.plot && shape === this.shape) {
      this.plot.setData(data);
      return;
    }
    this.shape = shape;
    this.plot?.destroy();
    this.plot = new window.uPlot(this.settings(columns, colours), data, this.parent);
  }

  /** Put the cursor on a bucket, as the keyboard does. */
  point(at) {
    const left = this.plot.valToPos(this.columns.times[at], "x");
    this.plot.setCursor({ left, top: this.plot.bbox.height / 2 / devicePixelRatio });
  }

  size() {
    const width = Math.max(200, Math.floor(this.parent.clientWidth));
    return { width, height: width < NARROW_PX ? HEIGHT_NARROW : HEIGHT_WIDE };
  }

  resize() {
    if (this.plot && this.parent.clientWidth) this.plot.setSize(this.size());
  }

  settings(columns, colours) {
    const line = (at, dash, fill) => ({ stroke: colours.lines[at], width: 1.75, dash, fill, points: { show: false } });
    const fill = columns.columns.length === 1 ? colours.fill : undefined;
    return {
      ...this.size(),
      padding: [12, 20, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 7 } },
      scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
      series: [{}, ...columns.columns.flatMap((_, at) => [line(at, dashOf(at), fill), line(at, OPEN_DASH)])],
      axes: axes(colours),
      hooks: {
        drawClear: [(plot) => this.shade(plot, colours)],
        setCursor: [(plot) => this.onCursor(plot.cursor.left >= 0 ? plot.cursor.idx : null)],
      },
    };
  }

  shade(plot, colours) {
    const { times, open, stepS } = this.columns;
    if (open >= times.length) return;
    const start = plot.valToPos(times[Math.max(0, open - 1)] + (open ? stepS / 2 : 0), "x", true);
    const left = Math.max(start, plot.bbox.left);
    plot.ctx.save();
    plot.ctx.fillStyle = colours.open;
    plot.ctx.fillRect(left, plot.bbox.top, plot.bbox.left + plot.bbox.width - left, plot.bbox.height);
    plot.ctx.restore();
  }
}

function axes(colours) {
  const shared = { stroke: colours.ink, font: FONT, ticks: { show: false } };
  const label = (s, incr) => {
    const text = instant(s * 1000, bucketForm(incr >= 86_400 ? incr : 60));
    return text === "00:00" ? instant(s * 1000, "day") : text;
  };
  return [
    { ...shared, size: 28, space: 62, grid: { show: false }, values: (_, splits, __, ___, incr) => splits.map((s) => label(s, incr)) },
    { ...shared, size: 52, space: 40, grid: { stroke: colours.grid, width: 1 }, values: (_, splits) => splits.map(short) },
  ];
}

/** Return uPlot's columns: each line twice, up to the first open bucket and from the last closed one on. */
function plotData({ times, open, columns }) {
  const closed = (values) => values.map((value, at) => (at < open ? value : null));
  const opened = (values) => values.map((value, at) => (at >= open - 1 ? value : null));
  return [times, ...columns.flatMap(({ values }) => [closed(values), opened(values)])];
}
