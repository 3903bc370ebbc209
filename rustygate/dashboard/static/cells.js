// Kinds of table cells. Each function returns a factory of cells. A cell has a node, and `show(row)`
// updates it.

import { Bar, Line, Timeline } from "./charts.js";
import { element, setText } from "./dom.js";

/** A number or a word. */
export const text = (read) => () => {
  const node = element("span");
  return { node, show: (row) => setText(node, read(row)) };
};

/** An untrusted name: isolated, and truncated if it is too long. */
export const name = (read) => () => {
  const node = element("bdi", "name");
  return { node, show: (row) => setText(node, read(row)) };
};

/** A number above a chart; `read` returns its text and what the chart takes. */
const charted = (Chart, read) => () => {
  const chart = new Chart();
  const label = element("span");
  const node = element("div", "charted", label, chart.node);
  const show = (row) => {
    const [words, ...values] = read(row);
    setText(label, words);
    chart.show(...values);
  };
  return { node, show };
};

/** A text and a bar: `[text, fraction, mark]`. */
export const bar = (read) => charted(Bar, read);

/** A text and a line: `[text, values]`. */
export const line = (read) => charted(Line, read);

/** The phases of an exchange: `[durations, scale]`. */
export const timeline = (read) => () => {
  const chart = new Timeline();
  return { node: chart.node, show: (row) => chart.show(...read(row)) };
};
