// Small SVG charts, drawn once and updated by changing attributes. Each repeats a number that is
// shown as text, so screen readers skip it.

import { isNumber } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function chart(kind, width, height, ...children) {
  const attributes = {
    class: `chart ${kind}`,
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  };
  return svg("svg", attributes, ...children);
}

function set(node, name, value) {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

const within = (value) => (isNumber(value) ? Math.min(1, Math.max(0, value)) : 0);

const tenths = (value) => Math.round(value * 10) / 10;

/** A bar that is full at 1, with an optional mark. */
export class Bar {
  constructor() {
    this.fill = svg("rect", { class: "fill", height: 8, width: 0 });
    this.mark = svg("rect", { class: "mark", height: 8, width: 0 });
    const track = svg("rect", { class: "track", height: 8, width: 100 });
    this.node = chart("meter", 100, 8, track, this.fill, this.mark);
  }

  show(fraction, mark) {
    set(this.fill, "width", tenths(100 * within(fraction)));
    set(this.mark, "width", isNumber(mark) ? 1.5 : 0);
    set(this.mark, "x", tenths(98.5 * within(mark)));
  }
}

/** The values of the last ten minutes as a line over a soft area, oldest on the left. */
export class Line {
  constructor() {
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.node = chart("spark", 100, 24, this.area, this.line);
    this.drawn = "";
  }

  show(values) {
    const text = Array.isArray(values) ? values.join() : "";
    if (text === this.drawn) return;
    this.drawn = text;
    const path = text ? linePath(values) : "";
    set(this.line, "d", path);
    set(this.area, "d", path && `${path}V24H0Z`);
  }
}

function linePath(values) {
  const top = Math.max(1, ...values);
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${tenths(at * step)} ${tenths(23 - (22 * value) / top)}`);
  return `M${points.join("L")}`;
}

/** The phases of one exchange on a scale that all rows share. */
export class Timeline {
  constructor() {
    this.phases = ["queued", "upstream", "body"].map((phase) =>
      svg("rect", { class: phase, height: 8, width: 0 }));
    this.node = chart("timeline", 100, 8, ...this.phases);
  }

  show(durations, scale) {
    let x = 0;
    durations.forEach((duration, at) => {
      const width = scale > 0 && isNumber(duration) ? (100 * duration) / scale : 0;
      set(this.phases[at], "x", tenths(x));
      set(this.phases[at], "width", duration > 0 ? Math.max(0.6, tenths(width)) : 0);
      x += width;
    });
  }
}

/** The next round number, so that a scale rarely changes. */
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 1.5, 2, 3, 5, 7, 10].map((factor) => factor * power).find((round) => round >= value) ?? value;
}
