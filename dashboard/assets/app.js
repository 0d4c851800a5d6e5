// Start the page: panels, live figures, and the switches that concern all of them.

import { address } from "./address.js";
import { ask } from "./api.js";
import { startDead } from "./dead.js";
import { byId, say } from "./dom.js";
import { dimensions, showFilters } from "./filters.js";
import { zone } from "./format.js";
import { showHealth, startHealth } from "./health.js";
import { live, now } from "./live.js";
import { showTools, startSeries } from "./series.js";
import { showStrip } from "./strip.js";
import { showTopTools, startTop } from "./top.js";
import { showUserForm, startUser } from "./user.js";
import { showWhereForm, startWhere } from "./where.js";

const TURN_MS = 500;
const DIMENSIONS_RETRY_MS = 2_000;

let panels = [];
let seenPosition = null;
let wasWhole = true;

function start() {
  const andShow = (change) => () => {
    change();
    showAll();
  };
  const acts = { pause: togglePause, zone: andShow(zone.toggle), theme: andShow(nextTheme) };
  for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);
  showSwitches();
  startHealth();
  panels = [startSeries(), startTop(), startUser(), startWhere(), startDead()];
  live.onChange(showLive);
  live.start();
  setInterval(turn, TURN_MS);
  address.onChange(readAddress);
  document.addEventListener("visibilitychange", turn);
  learnDimensions();
}

/** Ask until it is known what can be asked; the panels wait for it, for their questions are made of it. */
async function learnDimensions() {
  try {
    const told = await ask("dimensions");
    Object.assign(dimensions, told, { names: told.dimensions });
  } catch {
    panels.filter((panel) => panel.section.dataset.state === "loading").forEach((panel) => panel.fail({ message: "no worker answers yet" }));
    setTimeout(learnDimensions, DIMENSIONS_RETRY_MS);
    return;
  }
  showControls();
  panels.forEach((panel) => panel.refresh());
}

function showControls() {
  showFilters();
  showTools();
  showTopTools();
  showUserForm();
  showWhereForm();
}

function readAddress() {
  if (!dimensions.names.length) return;
  showControls();
  for (const panel of panels) {
    const fields = panel.options.question();
    if (fields === null || panel.options.sameAs(fields) !== panel.key) panel.refresh();
    else panel.show();
  }
}

function turn() {
  if (live.isPaused) return;
  showStrip();
  if (live.isSilent) showHealth();
  if (!dimensions.names.length) return;
  panels.forEach((panel) => {
    panel.turn();
    panel.showSource();
  });
}

function showLive() {
  showStrip();
  if (!live.isPaused) showHealth();
  hurryWhatChanged();
}

/** Ask at once when the first event has come, or when what was missing is back: nobody should wait ten seconds for that. */
function hurryWhatChanged() {
  if (!live.data || !dimensions.names.length || live.isPaused) return;
  const position = live.data.partitions.reduce((sum, partition) => sum + (partition.position ?? 0), 0);
  const isWhole = !live.isSilent && live.data.complete !== false;
  const hasMoved = seenPosition !== null && position !== seenPosition;
  for (const panel of panels) {
    const { state } = panel.section.dataset;
    if ((hasMoved && state === "empty") || (isWhole && !wasWhole && state !== "idle")) panel.dueAtMs = Math.min(panel.dueAtMs, now() + TURN_MS);
  }
  if (wasWhole && !isWhole) panels.forEach((panel) => (panel.dueAtMs = 0));
  wasWhole = isWhole;
  seenPosition = position;
}

function togglePause() {
  live.pause(!live.isPaused);
  showSwitches();
  showStrip();
  panels.forEach((panel) => panel.showSource());
  if (!live.isPaused) panels.forEach((panel) => (panel.dueAtMs = 0));
}

function showAll() {
  showSwitches();
  showStrip();
  showHealth();
  if (!dimensions.names.length) return;
  showControls();
  panels.forEach((panel) => panel.show());
}

function showSwitches() {
  press("pause", live.isPaused, live.isPaused ? "Resume" : "Pause");
  press("zone", zone.isLocal, zone.isLocal ? "Local time" : "UTC");
  say(byId("theme"), `Theme: ${document.documentElement.dataset.theme}`);
}

function press(id, isPressed, text) {
  say(byId(id), text);
  byId(id).setAttribute("aria-pressed", String(isPressed));
}

start();
