// What stands where there is nothing to show: why, and the next step.

import { address } from "./address.js";
import { button, el, nothing } from "./dom.js";
import { clearFilters, filters } from "./filters.js";
import { live } from "./live.js";

const COPIED_FOR_MS = 2_000;

/** Return elements that explain an empty chart: filters that match nothing, or a system without events. */
export const emptyState = () => Object.keys(filters()).length ? noMatch() : noEvents();

function noMatch() {
  const clear = button("Clear the filters", "clear", clearFilters);
  return nothing("No event matches these filters in this range", el("p", {}, clear, " ", longer()));
}

function noEvents() {
  return nothing(
    "No events in this range",
    el("p", {}, "Waiting for the first one; it shows up here by itself. To send one, run this where the gateway can be reached:"),
    commandBox(command()),
    el("p", {}, longer()),
  );
}

const longer = () => button("Look at 31 days", "longer", () => address.change({ range: "31d", from: null, to: null }));

function command() {
  const event = {
    time: new Date(live.nowMs()).toISOString(),
    cookie: "anna",
    country: "PL",
    device: "PC",
    action: "VIEW",
    origin: "HELLO",
    product_info: { product_id: 1, brand_id: "Tally", category_id: "First", price: 100 },
  };
  return `curl -i ${location.origin}/user_tags -d '${JSON.stringify(event)}'`;
}

function commandBox(text) {
  const code = el("code", { text });
  const copy = button("Copy", "copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // No clipboard without a secure context: select it for the reader to copy.
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), COPIED_FOR_MS);
  });
  return el("div", "command", el("pre", { tabindex: "0", "aria-label": "Command" }, code), copy);
}
