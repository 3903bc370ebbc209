// The head of the page: the gate's state, its most important numbers, and its own limits.

import { Bar, Line } from "./charts.js";
import { describeBudget, perSecond, pointOf } from "./columns.js";
import { byId, element, setText } from "./dom.js";
import { compact, count, duration, isNumber, rate, words } from "./format.js";
import { explain } from "./tip.js";

const STATES = {
  serving: "Requests are admitted, forwarded and answered.",
  draining: "The gate is stopping: exchanges in flight may finish, and new requests are refused.",
  alone: "The group's Redis does not answer. Until it does, this gate uses its share of the limits.",
};

const waiting = (value) => `${count(value)} waiting`;

const VITALS = [
  {
    label: "In flight",
    help: "Requests that were admitted and have not ended.",
    show: (state) => count(state.in_flight),
  },
  {
    label: "Waiting",
    help: "Requests in the queue, of all clients and for all models. The line shows the last ten minutes.",
    show: (state) => count(state.waiting),
    values: (state) => state.history?.waiting,
    format: waiting,
  },
  {
    label: "Admitted per second",
    help: "Requests admitted per second, over the last few seconds. The line shows the last ten minutes.",
    show: (state) => rate(state.admitted_per_s),
    values: (state) => state.history?.admitted,
    format: perSecond,
  },
  {
    label: "Longest wait now",
    help: "How long the oldest request in the queue has waited so far.",
    show: (state) => duration(state.longest_wait_s),
  },
  {
    label: "429s in 5 min",
    help: "How often upstream answered with 429 in the last five minutes. If waiting can help, the gate waits and sends the request again.",
    show: (state) => count(state.upstream_429_5m),
    wrong: (state) => state.upstream_429_5m > 0,
  },
  {
    label: "Members",
    help: "Gates in the group, which share one quota.",
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
  requests: "Requests that the gate can admit at once, of RATE_LIMIT_BURST. RATE_LIMIT refills them.",
  tokens: "Tokens that the gate can admit now, of TOKENS_PER_MINUTE.",
  slots: "Requests that can be in flight besides the current ones, of CONCURRENCY_LIMIT.",
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

const describeWorker = ({ number, pid, state, in_flight, connections, restarts }) =>
  `${number}: ${state}, ${count(in_flight)} in flight, ${count(connections)} connections, replaced ${count(restarts)} times, process ${pid}`;

const pill = byId("state");
const workers = byId("workers");
const vitals = VITALS.map((vital) => new Vital(vital));
const limits = new Map();
document.querySelector(".vitals").append(...vitals.map((vital) => vital.node));

let current = {};
explain(pill, () => ({ title: `The gate is ${current.state ?? "not connected"}`, help: STATES[current.state] }));

explain(workers, () => ({
  title: "Processes that serve clients",
  value: (current.workers ?? []).map(describeWorker).join("\n"),
  help: "They share the limits and the queue. One that ends is replaced.",
}));

function showWorkers(all) {
  const serving = all.filter((worker) => worker.state === "serving").length;
  const isWrong = serving < all.length;
  workers.hidden = !all.length;
  workers.classList.toggle("wrong", isWrong);
  setText(workers, isWrong ? `${serving} of ${all.length} workers serve` : `${serving} workers`);
}

/** Show a state in the head of the page. */
export function showVitals(state) {
  current = state;
  setText(pill, words(state.state ?? "unknown"));
  pill.classList.toggle("wrong", state.state !== "serving");
  const version = state.version ? `version ${state.version}, ` : "";
  setText(byId("about"), `${version}up ${duration(state.uptime_s)}`);
  showWorkers(state.workers ?? []);
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

/** The page's title, which a background tab shows. */
export function titleOf(state) {
  const isWaiting = isNumber(state.waiting) && state.waiting > 0;
  const trouble = state.state === "serving" ? "" : `${state.state}, `;
  return `${isWaiting ? `(${count(state.waiting)}) ` : ""}${trouble}RustyGate`;
}
