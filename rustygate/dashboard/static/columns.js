// The tables of the page: what each column shows and means.
//
// A column has a `label`, a `help` text, a `cell`, and a `width` in characters (names share the rest).
// Optional: `kind` ("number" aligns right), `sort(row)`, `wrong(row)`, `detail(row)` for the tooltip.

import { bar, line, name, text, timeline } from "./cells.js";
import { roundUp } from "./charts.js";
import { NONE, ago, clock, compact, count, day, duration, isNumber, money, ms, percent, words } from "./format.js";
import { Table } from "./table.js";

const INTERVAL_S = 5;
const UNKNOWN = "(none)";

/** A column with a number. */
const number = (key, label, width, format, help, more = {}) => ({
  key,
  label,
  width,
  help,
  kind: "number",
  cell: text((row) => format(row[key])),
  sort: (row) => row[key],
  ...more,
});

/** A column with a name, which is untrusted. */
const named = (key, label, help, more = {}) => ({
  key,
  label,
  help,
  cell: name((row) => row[key] ?? UNKNOWN),
  sort: (row) => row[key] ?? "",
  ...more,
});

const tokens = (key, label, help, more = {}) =>
  number(key, label, 9, compact, help, { detail: (row) => `${count(row[key])} tokens`, ...more });

// Lanes

const budgetOf = (lane, budget) => (lane.budgets ?? []).find((one) => one.budget === budget);

const fractionOf = (budget) => (budget?.limit ? budget.level / budget.limit : 0);

function level(lane, budget) {
  const found = budgetOf(lane, budget);
  if (!found) return ["no limit", undefined];
  return [`${compact(found.level)} / ${compact(found.limit)}`, fractionOf(found)];
}

export function describeBudget(budget, unit) {
  if (!budget) return `no limit on ${unit} is known`;
  const refill = budget.per_minute ? `; ${count(budget.per_minute)} more each minute` : "";
  return `${count(budget.level)} of ${count(budget.limit)} ${unit} left${refill}`;
}

const budget = (key, label, help) => ({
  key,
  label,
  width: 21,
  help,
  kind: "number",
  cell: bar((lane) => level(lane, key)),
  sort: (lane) => fractionOf(budgetOf(lane, key)),
  detail: (lane) => describeBudget(budgetOf(lane, key), key),
});

const forecast = (priority) => ({
  key: priority,
  label: `${priority[0].toUpperCase()}${priority.slice(1)} waits`,
  width: 12,
  kind: "number",
  help: `How long a new request of class ${priority} would wait, if its client has no other request in the queue.`,
  cell: text((lane) => duration(lane.forecast_s?.[priority])),
  sort: (lane) => lane.forecast_s?.[priority],
});

const UNITS = { requests: "req", tokens: "tok" };

function others(lane) {
  const used = lane.others_per_min;
  if (isNumber(used)) return used ? compact(used) : NONE;
  const parts = Object.entries(used ?? {}).filter(([, units]) => units > 0);
  return parts.map(([unit, units]) => `${compact(units)} ${UNITS[unit] ?? unit}`).join(", ") || NONE;
}

function laneState(lane) {
  if (lane.paused_s > 0) return `paused ${duration(lane.paused_s)}`;
  return isNumber(lane.pace_per_min) ? `${compact(lane.pace_per_min)} per min` : "open";
}

/** The value at a point of a history, for the tooltip. */
export function pointOf(values, fraction, format) {
  if (!values?.length) return "nothing yet";
  if (fraction === null) return `between ${format(Math.min(...values))} and ${format(Math.max(...values))}`;
  const at = Math.round(fraction * (values.length - 1));
  const ago = (values.length - 1 - at) * INTERVAL_S;
  return `${ago ? `${duration(ago)} ago` : "now"}: ${format(values[at])}`;
}

export const perSecond = (admitted) => `${(admitted / INTERVAL_S).toFixed(1)}/s`;

const LANES = [
  named("model", "Model", "A lane has the limits of one model. It is listed once the model has responded, or while requests wait for it."),
  {
    key: "paused_s",
    label: "State",
    width: 15,
    help: "After a 429 from upstream, a lane is paused or slowed down for a while. Other lanes continue.",
    cell: text(laneState),
    sort: (lane) => lane.paused_s ?? 0,
    wrong: (lane) => lane.paused_s > 0 || isNumber(lane.pace_per_min),
  },
  budget("requests", "Requests left", "Requests that can be sent to this model now, of the limit that upstream reported."),
  budget("tokens", "Tokens left", "Tokens that this model can use now, of the limit that upstream reported."),
  number("learned_s", "Learned", 13, ago, "How long ago upstream last reported this model's limits."),
  {
    key: "others_per_min",
    label: "Others / min",
    width: 15,
    kind: "number",
    help: "How much of this quota other consumers use, as the levels that upstream reports show.",
    cell: text(others),
    sort: others,
  },
  number("waiting", "Waiting", 9, count, "Requests for this model that are in the queue."),
  forecast("interactive"),
  forecast("default"),
  forecast("batch"),
  {
    key: "history",
    label: "Admitted, last 10 min",
    width: 22,
    kind: "number roomy",
    help: "Requests admitted in the last ten minutes, in steps of five seconds.",
    cell: line((lane) => [perSecond(lane.history?.at(-1) ?? 0), lane.history]),
    sort: (lane) => lane.history?.at(-1) ?? 0,
    detail: (lane, fraction) => pointOf(lane.history, fraction, perSecond),
  },
];

// Clients

const BUDGETS = {
  tokens_per_day: [compact, " tok/day"],
  tokens_per_month: [compact, " tok/month"],
  usd_per_day: [money, "/day"],
  usd_per_month: [money, "/month"],
};

function budgetLeft(client) {
  const left = Object.entries(client.budget_left ?? {});
  const shown = left.map(([key, amount]) => {
    const [format, unit] = BUDGETS[key] ?? [count, ` ${words(key)}`];
    return `${format(amount)}${unit}`;
  });
  return shown.join(", ") || NONE;
}

const isShort = (client) => client.waiting > 0 && client.share < 0.8 * client.share_due;

const CLIENTS = [
  named("client", "Client", "The client, named by its key, its X-RustyGate-Client header, or its address."),
  number("weight", "Weight", 8, String, "The client's share relative to other clients of its class."),
  {
    key: "priority",
    label: "Class",
    width: 12,
    help: "The priority class. Interactive, default and batch share a contended quota 16:4:1.",
    cell: text((client) => client.priority ?? NONE),
    sort: (client) => client.priority,
  },
  number("waiting", "Waiting", 9, count, "The client's requests in the queue."),
  number("in_flight", "In flight", 9, count, "The client's requests that were admitted and have not ended."),
  {
    key: "share",
    label: "Share",
    width: 28,
    kind: "number roomy",
    help: "The client's part of everything admitted in the last minute. The mark is the share that it is due. Red: it has requests waiting and gets less than 80% of its due.",
    cell: bar((client) => [percent(client.share), client.share, client.share_due]),
    sort: (client) => client.share,
    detail: (client) => `got ${percent(client.share)}, due ${percent(client.share_due)}`,
    wrong: isShort,
  },
  number("share_due", "Due", 7, percent, "The share that the client is due by its class and weight, among the clients with requests."),
  tokens("tokens_today", "Tokens today", "Tokens that the client has used since midnight UTC, estimated ones included.", { width: 13 }),
  number("cost_today_usd", "Cost today", 12, money, "The cost of those tokens. Unknown: some of it cannot be priced, for example because a model has no price."),
  {
    key: "budget_left",
    label: "Budget left",
    width: 27,
    kind: "number",
    help: "What is left of the client's budgets for this UTC day and month. Requests over a budget are refused.",
    cell: text(budgetLeft),
    sort: (client) => Math.min(...Object.values(client.budget_left ?? {}), Infinity),
    wrong: (client) => Object.values(client.budget_left ?? {}).some((left) => left <= 0),
  },
];

// Queue

const REASONS = {
  turn: "its turn",
  slots: "a free slot",
  requests: "the gate's requests",
  tokens: "the gate's tokens",
  paused: "the end of a pause",
  pace: "a slowed lane",
};

/** "lane tokens" as "the lane's tokens". */
function reason(waiter) {
  const found = waiter.blocked_by ?? "turn";
  return REASONS[found] ?? words(found).replace(/^(lane|client) /, "the $1's ");
}

const QUEUE = [
  number("position", "Next", 6, count, "The place in the order of admission."),
  named("client", "Client", "The client that sent the request."),
  {
    key: "priority",
    label: "Class",
    width: 12,
    help: "The priority class of the request.",
    cell: text((waiter) => waiter.priority ?? NONE),
  },
  named("model", "Model", "The model that the request names."),
  tokens("cost", "Cost", "The tokens that the request is expected to use, input and output."),
  number("waited_s", "Waited", 11, duration, "How long the request has been in the queue."),
  number("expected_s", "Still to wait", 12, duration, "How much longer the request is expected to wait. Unknown while it waits for a slot."),
  {
    key: "blocked_by",
    label: "Waits for",
    width: 24,
    help: "What keeps the request in the queue. Of several limits, the one that will do so longest.",
    cell: name(reason),
  },
  named("id", "Id", "The id of the request in the log and in X-RustyGate-Id.", { kind: "id", width: 18 }),
];

// Exchanges

let scale_ms = 1000;

const after = (end, start) => (isNumber(end) ? Math.max(0, end - (start ?? 0)) : null);

/** Milliseconds in the queue, until upstream's first byte, and until the end. */
function phases(exchange) {
  const { queued_ms: queued, first_byte_ms: first, total_ms: total } = exchange;
  return [queued, after(first ?? total, queued), isNumber(first) ? after(total, first) : null];
}

const phase = (at, label, help) => ({
  label,
  width: 12,
  kind: "number",
  help,
  cell: text((exchange) => ms(phases(exchange)[at])),
});

function describeTimeline(exchange) {
  const [queued, upstream, body] = phases(exchange).map(ms);
  return `queued ${queued}, upstream ${upstream}, body ${body}; ${ms(exchange.total_ms)} in all`;
}

function result(exchange) {
  const status = exchange.status ?? NONE;
  return exchange.outcome === "ok" ? `${status}` : `${status} ${words(exchange.reason ?? exchange.outcome ?? "")}`;
}

const RECENT = [
  {
    label: "Ended",
    width: 11,
    help: "When the exchange ended, in this browser's time zone.",
    kind: "time",
    cell: text((exchange) => clock(exchange.at)),
    detail: (exchange) => day(exchange.at),
  },
  named("client", "Client", "The client that sent the request."),
  named("model", "Model", "The model that the request named."),
  {
    label: "Result",
    width: 19,
    help: "The status of the response. Red: refused by the gate, an error from upstream, or cut off.",
    cell: name(result),
    detail: (exchange) => `${exchange.method ?? ""} ${exchange.path ?? ""}: ${result(exchange)}, ${words(exchange.outcome ?? "")}`,
    wrong: (exchange) => exchange.outcome !== "ok" && exchange.outcome !== "client_left",
  },
  phase(0, "Queued", "Time in the gate's queue."),
  phase(1, "Upstream", "From admission to the first byte of the response."),
  phase(2, "Body", "From the first byte of the response to its end."),
  {
    label: "Timeline",
    heading: () => `0 to ${ms(scale_ms).replace(".0", "")}`,
    width: 22,
    kind: "wide",
    help: "Time in the queue, upstream and in the body, on the same scale in all rows.",
    cell: timeline((exchange) => [phases(exchange), scale_ms]),
    detail: describeTimeline,
  },
  tokens("tokens_in", "In", "Tokens in the input.", { width: 9 }),
  tokens("tokens_cached", "Cached", "The part of the input that upstream read from its cache.", { width: 9 }),
  tokens("tokens_out", "Out", "Tokens in the output.", { width: 9 }),
  number("attempts", "Tries", 7, count, "How often the request was sent upstream.", { wrong: (exchange) => exchange.attempts > 1 }),
  named("id", "Id", "The id of the exchange in the log and in X-RustyGate-Id.", { kind: "id", width: 18 }),
];

// Counts and usage

const counts = (label, help) => [
  { ...named("name", label, help), cell: name((row) => words(row.name)) },
  number("count", "Count", 12, count, "How often, since the gate started."),
];

let busiestDay = 1;

const allTokens = (row) => (row.tokens_in ?? 0) + (row.tokens_out ?? 0) + (row.tokens_estimated ?? 0);

const USAGE = [
  { key: "day", label: "Day", width: 12, help: "A day in UTC.", cell: text((row) => row.day) },
  number("exchanges", "Exchanges", 12, count, "Requests that ended, refused ones included."),
  number("refused", "Refused", 11, count, "Requests that the gate refused."),
  {
    label: "Tokens",
    width: 18,
    kind: "number",
    help: "All tokens of the day. The bar compares the days.",
    cell: bar((row) => [compact(allTokens(row)), row.isTotal ? 0 : allTokens(row) / busiestDay]),
    detail: (row) => `${count(allTokens(row))} tokens`,
  },
  tokens("tokens_in", "In", "Tokens in the input, as reported by upstream.", { width: 11 }),
  tokens("tokens_cached", "Cached", "The part of the input that upstream read from its cache.", { width: 11 }),
  tokens("tokens_out", "Out", "Tokens in the output, as reported by upstream.", { width: 11 }),
  tokens("tokens_estimated", "Estimated", "The gate's estimate for responses that reported no usage.", { width: 11 }),
  number("queued_seconds", "Queued", 14, duration, "Total time that requests spent in the queue."),
  number("cost_usd", "Cost", 14, money, "The cost of those tokens. Unknown: some of it cannot be priced, for example because a model has no price."),
];

const SUMMED = ["exchanges", "refused", "tokens_in", "tokens_cached", "tokens_out", "tokens_estimated", "queued_seconds"];

function totalOf(rows) {
  const sum = (key) => rows.reduce((total, row) => total + (row[key] ?? 0), 0);
  const isPriced = rows.every((row) => row.cost_usd !== null);
  return {
    ...Object.fromEntries(SUMMED.map((key) => [key, sum(key)])),
    day: "total",
    isTotal: true,
    cost_usd: isPriced ? sum("cost_usd") : null,
  };
}

// The tables

const keyed = (key) => (row) => row[key];

const lanes = new Table("lanes", {
  caption: "Lanes: limits, forecasts and recent admissions of each model",
  columns: LANES,
  key: keyed("model"),
  order: "model",
  empty: "No lanes yet. A model gets a lane with its first response.",
});

const clients = new Table("clients", {
  caption: "Clients: requests waiting and in flight, shares, tokens, cost and budgets",
  columns: CLIENTS,
  key: (client) => JSON.stringify([client.client, client.priority]),
  order: "client",
  empty: "No clients yet. A client appears with its first request.",
});

const queue = new Table("queue", {
  caption: "The next requests in the queue, in the order of admission",
  columns: QUEUE,
  key: keyed("id"),
  empty: "No requests are waiting.",
});

const recent = new Table("recent", {
  caption: "The last exchanges, newest first, with the time each spent queued, upstream and in its body",
  columns: RECENT,
  key: keyed("id"),
  empty: "No exchanges have ended yet.",
});

const kinds = [
  ["refusals", "Refused by the gate", "Why the gate refused requests.", "No requests were refused."],
  ["verdicts", "429s from upstream", "What the gate did when upstream answered a request with 429.", "No 429s from upstream."],
  ["retries", "Sent again", "Why requests were sent again.", "No requests were sent again."],
].map(([id, label, help, empty]) => {
  const options = { caption: label, columns: counts(label, help), key: keyed("name"), empty };
  return [id, new Table(id, options)];
});

const usage = new Table("usage", {
  caption: "Usage by day",
  columns: USAGE,
  key: keyed("day"),
  empty: "No usage yet.",
  total: totalOf,
});

const VERDICTS = { pass: "passed on", pause: "lane paused", slow: "lane slowed" };

function asRows(counts) {
  const found = Object.entries(counts ?? {}).filter(([, count]) => count > 0);
  return found.map(([name, count]) => ({ name: VERDICTS[name] ?? name, count }));
}

/** Show a state in all tables. */
export function showTables(state) {
  lanes.update(state.lanes ?? []);
  clients.update(state.clients ?? []);
  queue.update((state.queue ?? []).map((waiter, at) => ({ ...waiter, position: at + 1 })));
  const exchanges = state.recent ?? [];
  scale_ms = roundUp(Math.max(1000, ...exchanges.map((exchange) => exchange.total_ms ?? 0)));
  recent.update(exchanges);
  for (const [id, table] of kinds) table.update(asRows(state[id]));
  const days = [...(state.usage ?? [])].sort((a, b) => (a.day < b.day ? 1 : -1));
  busiestDay = Math.max(1, ...days.map(allTokens));
  usage.update(days);
}
