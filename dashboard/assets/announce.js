// Say to screen readers what changed by itself: the newest of each topic, and never more than once in ten seconds.

import { byId } from "./dom.js";

const EVERY_MS = 10_000;
const waiting = new Map();
let lastAtMs = -EVERY_MS;
let timer = null;

/** Announce a text; a newer one of the same topic takes its place while it waits. */
export function announce(topic, text) {
  waiting.set(topic, text);
  timer ??= setTimeout(speak, Math.max(0, lastAtMs + EVERY_MS - performance.now()));
}

function speak() {
  timer = null;
  lastAtMs = performance.now();
  byId("announcements").textContent = [...waiting.values()].join(". ");
  waiting.clear();
}
