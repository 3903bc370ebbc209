// The head of the page: the gate's state, its most important numbers, and its own limits.

import { Bar, Line } from "./charts.js";
import { describeBudget, perSecond, pointOf } from "./columns.js";
import { byId, element, setText } from "./dom.js";
import { compact, count, duration, isNumber, rate, words } from "./format.js";
import { explain } from "./tip.js";

const STATES = {
  serving: "Requests are admitted, forwarded and answered.",
  draining: "The gate is shutting down: exchanges in flight are finished, new requests are refused.",
  alone: "The group's store cannot be reached; this gate goes on with its last share of the limits.",
};

const waiting = (value) => `${count(value)} waiting`;

const VITALS = [
  {
    label: "In flight",
    help: "Requests that were sent upstream and have not ended.",
    show: (state) => count(state.in_flight),
  },
  {
    label: "Waiting",
    help: "Requests in the gate's queue, over all models and clients. The line shows the last ten minutes.",
    show: (state) => count(state.waiting),
    values: (state) => state.history?.waiting,
    format: waiting,
  },
  {
    label: "Admitted per second",
    help: "Requests that were admitted each second, lately. The line shows the last ten minutes.",
    show: (state) => rate(state.admitted_per_s),
    values: (state) => state.history?.admitted,
    format: perSecond,
  },
  {
    label: "Longest wait now",
    help: "How long the request has waited that has been in the queue the longest.",
    show: (state) => duration(state.longest_wait_s),
  },
  {
    label: "429s in 5 min",
    help: "How often upstream refused a request for its rate in the last five minutes. The gate waits and sends them again where that helps.",
    show: (state) => count(state.upstream_429_5m),
    wrong: (state) => state.upstream_429_5m > 0,
  },
  {
    label: "Members",
    help: "Gates that share this quota.",
    show: (state) => (state.group ? members(state.group) : "1"),
    note: (state) => (state.group?.state === "single" ? "no group" : words(state.group?.state ?? "")),
    wrong: (state) => state.group?.state === "alone",
  },
];

const members = (group) => count(Array.isArray(group.members) ? group.members.length : group.members);

class Vital {
  constructor(vital) {
    this.vital = vital;
    this.number = element("span", "figure");
    this.note = element("span", "note");
    this.node = element("div", "vital", element("dt", "", vital.label), element("dd", "", this.number, this.note));
    this.node.tabIndex = 0;
    if (vital.values) this.node.append(this.wrap(new Line()));
    explain(this.node, (fraction) => this.describe(fraction));
  }

  wrap(line) {
    this.line = line;
    return element("dd", "", line.node);
  }

  describe(fraction) {
    const { label, help, values, format } = this.vital;
    const point = values && fraction !== null && pointOf(values(this.state), fraction, format);
    return { title: label, value: point || this.number.textContent, help };
  }

  show(state) {
    this.state = state;
    setText(this.number, this.vital.show(state));
    setText(this.note, this.vital.note?.(state) ?? "");
    this.line?.show(this.vital.values(state));
    this.node.classList.toggle("wrong", Boolean(this.vital.wrong?.(state)));
  }
}

const UNITS = {
  requests: "Requests that the gate may admit at once, of RATE_LIMIT_BURST; RATE_LIMIT refills it.",
  tokens: "Tokens that the gate may still admit, of TOKENS_PER_MINUTE.",
  slots: "Requests that may still be sent upstream at the same time, of CONCURRENCY_LIMIT.",
};

class Limit {
  constructor(unit) {
    this.bar = new Bar();
    this.number = element("span", "figure");
    this.node = element("div", "limit", element("dt", "", `${unit[0].toUpperCase()}${unit.slice(1)} left`), element("dd", "", this.number, this.bar.node));
    this.node.tabIndex = 0;
    explain(this.node, () => ({
      title: `The gate's own limit on ${unit}`,
      value: describeBudget(this.budget, unit),
      help: UNITS[unit],
    }));
  }

  show(budget) {
    this.budget = budget;
    setText(this.number, `${compact(budget.level)} / ${compact(budget.limit)}`);
    this.bar.show(budget.limit ? budget.level / budget.limit : 0);
  }
}

const pill = byId("state");
const vitals = VITALS.map((vital) => new Vital(vital));
const limits = new Map();
document.querySelector(".vitals").append(...vitals.map((vital) => vital.node));

let current = {};
explain(pill, () => ({ title: `The gate is ${current.state ?? "not connected"}`, help: STATES[current.state] }));

/** Show a state in the head of the page. */
export function showVitals(state) {
  current = state;
  setText(pill, words(state.state ?? "unknown"));
  pill.classList.toggle("wrong", state.state !== "serving");
  const version = state.version ? `version ${state.version}, ` : "";
  setText(byId("about"), `${version}up ${duration(state.uptime_s)}`);
  for (const vital of vitals) vital.show(state);
  for (const budget of state.budgets ?? []) limitOf(budget.budget).show(budget);
}

function limitOf(unit) {
  if (!limits.has(unit)) {
    limits.set(unit, new Limit(unit));
    document.querySelector(".limits").append(limits.get(unit).node);
  }
  return limits.get(unit);
}

/** The page's title: it is what a background tab shows. */
export function titleOf(state) {
  const isWaiting = isNumber(state.waiting) && state.waiting > 0;
  const trouble = state.state === "serving" ? "" : `${state.state}, `;
  return `${isWaiting ? `(${count(state.waiting)}) ` : ""}${trouble}RustyGate`;
}
