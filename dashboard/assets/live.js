// The live figures: one stream a tab while it is seen, a poll where there is none, and the server's clock that comes with them.

import { ask, urlOf } from "./api.js";

const SILENT_MS = 10_000; // The stream speaks each second; after ten of silence it is not one.
const SILENT_LOST_MS = 5_000;
const POLL_MS = 10_000;
const FIRST_POLL_MS = 3_000;
const RETRY_MS_FIRST = 2_000;
const RETRY_MS_MAX = 30_000;
const SLOTS = 4; // Browsers allow six connections a host: streams must leave some for questions.

/** Milliseconds that never go back. */
export const now = () => performance.now();

const listeners = new Set();
let source = null;
let freeSlot = null;
let isOpening = false;
let retryMs = RETRY_MS_FIRST;
let nextStreamAtMs = 0;
let heardAtMs = -Infinity;
let askedAtMs = -Infinity;
let tookAtMs = -Infinity;
let clockMs = Date.now() - now();

export const live = {
  /** The newest figures, or null. */
  data: null,
  /** connecting | stream | poll | lost | paused */
  mode: "connecting",
  isPaused: false,

  onChange(listener) {
    listeners.add(listener);
  },
  nowMs() {
    return clockMs + now();
  },
  /** Whether the figures are too old to stand for now: a stream that is opened again within seconds is no silence. */
  get isSilent() {
    return live.mode === "lost" && now() - tookAtMs > SILENT_LOST_MS;
  },
  /** loading | failed | stale | partial | ready: of what is shown of them */
  get state() {
    if (!live.data) return live.isSilent ? "failed" : "loading";
    return live.isSilent ? "stale" : live.data.complete === false ? "partial" : "ready";
  },
  /** Hold everything as it is, or go on. */
  pause(paused) {
    live.isPaused = paused;
    restart();
    become(paused ? "paused" : "connecting");
  },
  start() {
    document.addEventListener("visibilitychange", restart);
    setInterval(turn, 500);
    restart();
  },
};

const isWanted = () => !live.isPaused && !document.hidden;

function restart() {
  close();
  nextStreamAtMs = 0;
  retryMs = RETRY_MS_FIRST;
  heardAtMs = now();
  askedAtMs = now() - POLL_MS + FIRST_POLL_MS;
  if (isWanted()) turn();
}

/** Do what is due: open a stream, give up a silent one, poll where nothing was heard. */
function turn() {
  if (!isWanted()) return;
  if (source && now() - heardAtMs > SILENT_MS) later();
  if (!source && !isOpening && now() >= nextStreamAtMs) open();
  if (live.mode !== "stream" && now() - askedAtMs >= POLL_MS) poll();
}

async function open() {
  isOpening = true;
  const mine = await takeSlot();
  isOpening = false;
  if (!mine || !isWanted()) {
    giveSlot();
    nextStreamAtMs = now() + RETRY_MS_MAX;
    return;
  }
  heardAtMs = now();
  source = new EventSource(urlOf("live"));
  source.addEventListener("live", (event) => {
    retryMs = RETRY_MS_FIRST;
    take(event.data, "stream");
  });
  source.addEventListener("error", () => {
    // While CONNECTING the browser itself tries again; once CLOSED (an answer that is no stream) nobody does but us.
    if (source?.readyState === EventSource.CLOSED) later();
    if (isWanted() && live.mode !== "poll") become("lost");
  });
}

function later() {
  close();
  nextStreamAtMs = now() + retryMs * (0.75 + Math.random() / 2);
  retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
}

function close() {
  source?.close();
  source = null;
  giveSlot();
}

async function poll() {
  askedAtMs = now();
  const data = await ask("now").catch(() => null);
  if (!isWanted() || live.mode === "stream") return;
  if (data) take(data, "poll");
  else become("lost");
}

function take(said, mode) {
  if (!isWanted()) return;
  let data = said;
  try {
    if (typeof said === "string") data = JSON.parse(said);
  } catch {
    return; // Cut in the middle; the next one comes in a second.
  }
  heardAtMs = tookAtMs = now();
  const atMs = Date.parse(data.at);
  if (!isNaN(atMs)) clockMs = atMs - heardAtMs;
  live.data = data;
  become(mode);
}

function become(mode) {
  live.mode = mode;
  for (const listener of listeners) listener();
}

/** Return whether this tab may hold a stream; without Web Locks (no secure context) each may. */
function takeSlot() {
  if (!navigator.locks) return Promise.resolve(true);
  const tries = Array.from({ length: SLOTS }, (_, number) => `tally-stream-${number}`);
  return tries.reduce(async (taken, name) => (await taken) || tryLock(name), Promise.resolve(false));
}

function tryLock(name) {
  return new Promise((resolve) => {
    const hold = (lock) => {
      if (!lock) return resolve(false);
      return new Promise((release) => {
        freeSlot = release;
        resolve(true);
      });
    };
    navigator.locks.request(name, { ifAvailable: true }, hold).catch(() => resolve(true));
  });
}

function giveSlot() {
  freeSlot?.();
  freeSlot = null;
}
