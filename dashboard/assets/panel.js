// What every panel has: a question, its states (loading, ready, empty, partial, stale, failed), its source, its downloads.

import { ask, urlOf } from "./api.js";
import { announce } from "./announce.js";
import { button, byId, el, refill, say, span } from "./dom.js";
import { age, instant } from "./format.js";
import { live, now } from "./live.js";

const IDLE_SHARE = 10; // A panel asks again after ten times what the answer took, at least: its load stays under a tenth.
const BAD = ["partial", "stale", "failed"];
const RETRY_S_MAX = 30;
const PASSING = { as_of: 0, took_ms: 0 };
export const SOURCES = { tables: "the workers’ tables", postgres: "Postgres" };

export class Panel {
  /**
   * @param options path of the API; question(): fields, or null when there is nothing to ask; render(data, fields), empty():
   *   elements; isEmpty(data); refreshS; exports; sameAs(fields): equal for questions whose older answer may stand meanwhile
   */
  constructor(id, options) {
    this.section = byId(id);
    this.title = this.section.querySelector("h2");
    this.name = this.title.textContent;
    this.options = { refreshS: 10, exports: true, isEmpty: () => false, sameAs: JSON.stringify, ...options };
    this.data = null;
    this.failures = 0;
    this.dueAtMs = 0;
    this.build();
  }

  build() {
    this.tools = el("div", "tools");
    this.notice = el("div", { class: "notice", hidden: true });
    this.content = el("div", "content");
    this.sourceLine = el("span", "source");
    this.links = el("span", "links");
    const head = el("header", "panel-head", this.title, this.tools);
    this.section.replaceChildren(head, this.notice, this.content, el("footer", "panel-foot", this.sourceLine, this.links));
  }

  /** Ask when it is time to; the page calls this twice a second. */
  turn() {
    if (!document.hidden && !this.isAsking && now() >= this.dueAtMs) this.refresh();
  }

  /** Ask now. */
  async refresh() {
    const fields = this.options.question();
    this.dueAtMs = Infinity;
    if (fields === null) return this.idle();
    const key = this.options.sameAs(fields);
    if (key !== this.key) this.begin(key);
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    this.isAsking = true;
    const startedMs = now();
    try {
      this.accept(await ask(this.options.path, fields, controller.signal), fields, startedMs);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.fail(error);
    }
    this.isAsking = false;
  }

  idle() {
    this.controller?.abort();
    this.isAsking = false;
    this.key = null;
    this.empty("idle", this.options.idle?.());
  }

  begin(key) {
    this.key = key;
    this.empty("loading", el("div", "skeleton"), span("hidden-visually", "loading"));
  }

  /** Show a state without data. */
  empty(state, ...content) {
    this.data = null;
    this.become(state);
    this.notice.hidden = true;
    this.links.replaceChildren();
    say(this.sourceLine, "");
    refill(this.content, content);
  }

  accept(data, fields, startedMs) {
    const tookMs = now() - startedMs;
    this.failures = 0;
    const isSame = JSON.stringify({ ...this.data, ...PASSING }) === JSON.stringify({ ...data, ...PASSING });
    Object.assign(this, { data, fields, askedAtMs: live.nowMs() });
    // What is the same stays on the page as it is: somebody may be marking it.
    if (isSame && !data.series && this.section.dataset.state !== "stale") this.showSource();
    else this.show();
    if (this.options.exports) this.showLinks();
    this.dueAtMs = now() + Math.max(this.options.refreshS * 1000, IDLE_SHARE * tookMs);
  }

  /** Show what was answered last; again after the zone or the theme has changed. */
  show() {
    if (this.data === null) return;
    const isPartial = this.data.complete === false;
    const isEmpty = !isPartial && this.options.isEmpty(this.data);
    this.become(isPartial ? "partial" : isEmpty ? "empty" : "ready");
    this.notice.hidden = !isPartial;
    if (isPartial) this.warn("partial", partialText(this.data));
    refill(this.content, isEmpty ? this.options.empty() : this.options.render(this.data, this.fields));
    this.showSource();
  }

  fail(error) {
    this.failures += 1;
    const waitS = Math.min(Math.max(error.retryAfterS ?? 0, 2 ** this.failures), RETRY_S_MAX);
    this.dueAtMs = now() + waitS * 1000;
    const why = `${error.message}${error.hint ? ` (${error.hint})` : ""}.`;
    if (error.code === "bad_query" || this.data === null) {
      this.empty("failed");
      this.warn("failed", `Could not be read: ${why}`);
    } else {
      this.become("stale");
      this.warn("stale", `These are the figures of ${age(this.ageS())} ago; newer ones could not be read: ${why}`);
    }
  }

  warn(kind, text) {
    this.notice.hidden = false;
    this.notice.className = `notice ${kind}`;
    refill(this.notice, el("span", { text }), button("Try again", "again", () => this.refresh()));
  }

  become(state) {
    const before = this.section.dataset.state;
    this.section.dataset.state = state;
    this.section.setAttribute("aria-busy", String(state === "loading"));
    if (before === state) return;
    if (BAD.includes(state)) announce(this.name, `${this.name}: ${state}`);
    else if (BAD.includes(before)) announce(this.name, `${this.name}: whole again`);
  }

  asOfMs() {
    return this.data.as_of ? Date.parse(this.data.as_of) : this.askedAtMs;
  }

  ageS() {
    return (live.nowMs() - this.asOfMs()) / 1000;
  }

  /** Say where the figures come from and how old they are; again each second. */
  showSource() {
    if (!this.data) return;
    const from = this.options.from ?? SOURCES[this.data.source];
    const took = this.data.took_ms >= 0 ? ` · read in ${Math.round(this.data.took_ms)} ms` : "";
    const old = live.isPaused ? "paused" : `${age(this.ageS())} ago`;
    const what = this.data.as_of ? "everything up to" : "asked at";
    say(this.sourceLine, `From ${from} · ${what} ${instant(this.asOfMs())}, ${old}${took}`);
  }

  showLinks() {
    const { path } = this.options;
    const link = (key, fields) => {
      const text = key.toUpperCase();
      return el("a", { href: urlOf(path, fields), download: `tally-${path}.${key}`, text, "aria-label": `${this.name} as ${text}`, data: { key } });
    };
    refill(this.links, link("csv", { ...this.fields, format: "csv" }), link("json", this.fields));
  }
}

function partialText(data) {
  const missing = data.missing_partitions ?? [];
  return `Partial: partition${missing.length === 1 ? "" : "s"} ${missing.join(", ")} did not answer. No total is given until all is back.`;
}
