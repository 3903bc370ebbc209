// The live page: shows each state that the gate sends, and says when the connection is lost.

import { showTables } from "./columns.js";
import { Connection } from "./connection.js";
import { byId, setText } from "./dom.js";
import { ago, clock } from "./format.js";
import { refreshTip } from "./tip.js";
import { showVitals, titleOf } from "./vitals.js";

const title = document.querySelector("title");
const live = byId("live");
let latest = null;
let receivedAt = 0;
let isLost = false;
let version = null;

function receive(state) {
  if (version && state.version !== version) location.reload();
  version = state.version;
  announceChange(state);
  latest = state;
  receivedAt = Date.now();
  isLost = false;
  document.body.classList.remove("loading", "lost");
  setText(title, titleOf(state));
  if (!document.hidden) show();
}

function show() {
  if (!latest) return;
  showVitals(latest);
  showTables(latest);
  setText(live, isLost ? lostText() : `live, ${clock(latest.now ?? receivedAt)}`);
  refreshTip();
}

function lose() {
  if (isLost) return;
  isLost = true;
  document.body.classList.remove("loading");
  document.body.classList.add("lost");
  setText(title, "Connection lost, RustyGate");
  announce("Connection lost, reconnecting.");
  setText(live, lostText());
}

function lostText() {
  if (!latest) return "not connected, trying again";
  return `connection lost ${ago((Date.now() - receivedAt) / 1000)}, reconnecting`;
}

/** Announce changes of the state to screen readers; the numbers change too often for that. */
function announceChange(state) {
  if (isLost) announce(`Connected again. The gate is ${state.state}.`);
  else if (latest && latest.state !== state.state) announce(`The gate is ${state.state}.`);
}

const announce = (text) => setText(byId("announcer"), text);

new Connection(receive, lose);
setInterval(() => isLost && setText(live, lostText()), 1000);
document.addEventListener("visibilitychange", () => !document.hidden && show());
