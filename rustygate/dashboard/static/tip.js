// Explanations: one tooltip for all numbers, shown on hover and on focus, closed by Escape.
//
// `explain(node, describe)` registers a node. `describe(fraction)` returns the texts to show: `title`,
// `value` and `help`. `fraction` is the pointer's place on the node's chart, from 0 to 1, or null.

import { element, setText } from "./dom.js";

const GAP = 6;
const LEAVE_MS = 120;

const descriptions = new WeakMap();
const tip = document.getElementById("tip");
const title = tip.appendChild(element("p", "tip-title"));
const value = tip.appendChild(element("bdi", "tip-value"));
const help = tip.appendChild(element("p", "tip-help"));

let shown = null;
let fraction = null;
let leaving = 0;
let pointer = "";

export function explain(node, describe) {
  node.classList.add("explained");
  descriptions.set(node, describe);
}

/** Update the explanation after its numbers changed. */
export function refreshTip() {
  if (shown?.isConnected) write();
  else hide();
}

function explainedAt(target) {
  const node = target instanceof Element ? target.closest(".explained") : null;
  return descriptions.has(node) ? node : null;
}

function show(node) {
  clearTimeout(leaving);
  if (node !== shown) hide();
  shown = node;
  shown.setAttribute("aria-describedby", "tip");
  write();
  place();
}

function hide() {
  clearTimeout(leaving);
  shown?.removeAttribute("aria-describedby");
  shown = null;
  tip.hidden = true;
}

function write() {
  const texts = descriptions.get(shown)(fraction);
  for (const [node, text] of [[title, texts.title], [value, texts.value], [help, texts.help]]) {
    setText(node, text ?? "");
    node.hidden = !text;
  }
  tip.hidden = false;
}

function place() {
  const at = shown.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const x = Math.max(GAP, Math.min(at.left, width - tip.offsetWidth - GAP));
  const isRoomBelow = at.bottom + GAP + tip.offsetHeight < window.innerHeight;
  const y = isRoomBelow ? at.bottom + GAP : Math.max(GAP, at.top - GAP - tip.offsetHeight);
  tip.style.setProperty("translate", `${Math.round(x)}px ${Math.round(y)}px`);
}

function fractionAt(event) {
  const spark = shown?.querySelector(".spark");
  if (!spark) return null;
  const box = spark.getBoundingClientRect();
  const at = (event.clientX - box.left) / box.width;
  return at >= 0 && at <= 1 ? at : null;
}

function hover(event) {
  const node = explainedAt(event.target);
  if (node) {
    if (node !== shown) show(node);
    clearTimeout(leaving);
    fraction = fractionAt(event);
    write();
  } else if (tip.contains(event.target)) clearTimeout(leaving);
  else if (shown !== document.activeElement) {
    clearTimeout(leaving);
    leaving = setTimeout(hide, LEAVE_MS);
  }
}

document.addEventListener("pointermove", (event) => {
  // Browsers also report a resting pointer when the page scrolls under it, for example by arrow keys.
  const at = `${event.clientX} ${event.clientY}`;
  if (at !== pointer) hover(event);
  pointer = at;
});

document.addEventListener("focusin", (event) => {
  const node = explainedAt(event.target);
  fraction = null;
  if (node) show(node);
  else hide();
});
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
});
document.addEventListener("scroll", () => shown && place(), { capture: true, passive: true });
