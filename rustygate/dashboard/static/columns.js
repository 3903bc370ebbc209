// The tables of the page: what each column shows, and what it means.
//
// A column has a `label`, a `help` text, a `cell`, a `width` in characters (names take what is left),
// and perhaps: `kind` ("number" is set right), `sort(row)`, `wrong(row)`, `detail(row)` for the tooltip.

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

/** A column with a name that comes from a stranger. */
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
  help: `How long a request of class ${priority} would wait now if it came from a client with nothing else in the queue.`,
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

/** What a point of a history was, for the tooltip. */
export function pointOf(values, fraction, format) {
  if (!values?.length) return "nothing yet";
  if (fraction === null) return `between ${format(Math.min(...values))} and ${format(Math.max(...values))}`;
  const at = Math.round(fraction * (values.length - 1));
  const ago = (values.length - 1 - at) * INTERVAL_S;
  return `${ago ? `${duration(ago)} ago` : "now"}: ${format(values[at])}`;
}

export const perSecond = (admitted) => `${(admitted / INTERVAL_S).toFixed(1)}/s`;

const LANES = [
  named("model", "Model", "A lane holds the budgets of one model. A model gets a lane when it first responds."),
  {
    key: "paused_s",
    label: "State",
    width: 15,
    help: "After a 429 from upstream a lane is paused, or slowed to a lower rate for a while. Other lanes go on.",
    cell: text(laneState),
    sort: (lane) => lane.paused_s ?? 0,
    wrong: (lane) => lane.paused_s > 0 || isNumber(lane.pace_per_min),
  },
  budget("requests", "Requests left", "Requests this model may still get now, of the limit learned from upstream."),
  budget("tokens", "Tokens left", "Tokens this model may still use now, of the limit learned from upstream."),
  number("learned_s", "Learned", 13, ago, "How long ago upstream last reported this model's limits."),
  {
    key: "others_per_min",
    label: "Others / min",
    width: 15,
    kind: "number",
    help: "How much of this quota others use besides this gate, as upstream's levels show.",
    cell: text(others),
    sort: others,
  },
  number("waiting", "Waiting", 9, count, "Requests for this model in the queue."),
  forecast("interactive"),
  forecast("default"),
  forecast("batch"),
  {
    key: "history",
    label: "Admitted, last 10 min",
    width: 22,
    kind: "number roomy",
    help: "Requests admitted in this lane over the last ten minutes, in steps of five seconds.",
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
  named("client", "Client", "Who sends the requests: the name of the client's key, its X-RustyGate-Client header, or its address."),
  number("weight", "Weight", 8, String, "The client's share relative to others of its class."),
  {
    key: "priority",
    label: "Class",
    width: 12,
    help: "The priority class: interactive, default and batch share a contended quota 16:4:1.",
    cell: text((client) => client.priority ?? NONE),
    sort: (client) => client.priority,
  },
  number("waiting", "Waiting", 9, count, "The client's requests in the queue."),
  number("in_flight", "In flight", 9, count, "The client's requests that are upstream now."),
  {
    key: "share",
    label: "Share",
    width: 28,
    kind: "number roomy",
    help: "How much of what was admitted lately went to this client. The mark is the share that it is due. Red: it waits and gets less than four fifths of its due.",
    cell: bar((client) => [percent(client.share), client.share, client.share_due]),
    sort: (client) => client.share,
    detail: (client) => `got ${percent(client.share)}, due ${percent(client.share_due)}`,
    wrong: isShort,
  },
  number("share_due", "Due", 7, percent, "The share that is due to this client by class and weight, among the clients that want any."),
  tokens("tokens_today", "Tokens today", "Tokens that the client used since midnight UTC.", { width: 13 }),
  number("cost_today_usd", "Cost today", 12, money, "What those tokens cost by the price list. Unknown: a model has no price."),
  {
    key: "budget_left",
    label: "Budget left",
    width: 27,
    kind: "number",
    help: "What is left of the budgets in CLIENTS_FILE, in UTC days and months. When one is used up, requests are refused.",
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
  number("position", "Next", 6, count, "The place in the order in which the gate will admit them."),
  named("client", "Client", "Whose request waits."),
  {
    key: "priority",
    label: "Class",
    width: 12,
    help: "Its priority class.",
    cell: text((waiter) => waiter.priority ?? NONE),
  },
  named("model", "Model", "The model that it asks for."),
  tokens("cost", "Cost", "The tokens that the request is expected to take: its input and its output cap."),
  number("waited_s", "Waited", 11, duration, "How long the request has been in the queue."),
  number("expected_s", "Still to wait", 12, duration, "How long it will still wait, as the gate forecasts it."),
  {
    key: "blocked_by",
    label: "Waits for",
    width: 24,
    help: "What keeps the request in the queue: of all that is short, what will be short for longest.",
    cell: name(reason),
  },
  named("id", "Id", "The request's id, as in the log and in the response's X-RustyGate-Id.", { kind: "id", width: 18 }),
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
  named("client", "Client", "Who sent the request."),
  named("model", "Model", "The model that it asked for."),
  {
    label: "Result",
    width: 19,
    help: "The status that the client got. Red: refused by the gate, an error upstream, or cut off.",
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
    help: "Queued, upstream and body on one time scale for all rows.",
    cell: timeline((exchange) => [phases(exchange), scale_ms]),
    detail: describeTimeline,
  },
  tokens("tokens_in", "In", "Tokens of the input.", { width: 9 }),
  tokens("tokens_cached", "Cached", "The part of the input that upstream read from its cache.", { width: 9 }),
  tokens("tokens_out", "Out", "Tokens of the output.", { width: 9 }),
  number("attempts", "Tries", 7, count, "How often the request was sent upstream.", { wrong: (exchange) => exchange.attempts > 1 }),
  named("id", "Id", "The exchange's id, as in the log and in the response's X-RustyGate-Id.", { kind: "id", width: 18 }),
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
    help: "All tokens of the day; the bar compares the days.",
    cell: bar((row) => [compact(allTokens(row)), row.isTotal ? 0 : allTokens(row) / busiestDay]),
    detail: (row) => `${count(allTokens(row))} tokens`,
  },
  tokens("tokens_in", "In", "Tokens of the input, as upstream reported them.", { width: 11 }),
  tokens("tokens_cached", "Cached", "The part of the input that upstream read from its cache.", { width: 11 }),
  tokens("tokens_out", "Out", "Tokens of the output, as upstream reported them.", { width: 11 }),
  tokens("tokens_estimated", "Estimated", "Tokens of exchanges for which upstream reported none, as the gate estimated them.", { width: 11 }),
  number("queued_seconds", "Queued", 14, duration, "Time that all these requests together spent in the queue."),
  number("cost_usd", "Cost", 14, money, "What the tokens cost by the price list. Unknown: some exchange's model has no price."),
];

const SUMMED = ["exchanges", "refused", "tokens_in", "tokens_cached", "tokens_out", "tokens_estimated", "queued_seconds"];

function totalOf(rows) {
  const sum = (key) => rows.reduce((total, row) => total + (row[key] ?? 0), 0);
  const isPriced = rows.every((row) => row.cost_usd !== null);
  return {
    ...Object.fromEntries(SUMMED.map((key) => [key, sum(key)])),
    day: "in all",
    isTotal: true,
    cost_usd: isPriced ? sum("cost_usd") : null,
  };
}

// The tables

const keyed = (key) => (row) => row[key];

const lanes = new Table("lanes", {
  caption: "The lanes: budgets, forecasts and recent admissions of each model",
  columns: LANES,
  key: keyed("model"),
  order: "model",
  empty: "No lane yet. A model gets one when it first responds.",
});

const clients = new Table("clients", {
  caption: "The clients: what they have waiting and in flight, their share, tokens, cost and budgets",
  columns: CLIENTS,
  key: (client) => JSON.stringify([client.client, client.priority]),
  order: "client",
  empty: "No client yet. Clients show up here with their first request.",
});

const queue = new Table("queue", {
  caption: "The next requests in the queue, in the order of admission",
  columns: QUEUE,
  key: keyed("id"),
  empty: "Nobody waits.",
});

const recent = new Table("recent", {
  caption: "The last exchanges, the newest first, with the time each spent queued, upstream and in its body",
  columns: RECENT,
  key: keyed("id"),
  empty: "No exchange has ended yet.",
});

const kinds = [
  ["refusals", "Refused by the gate", "Why the gate refused requests.", "Nothing was refused."],
  ["verdicts", "429 and 503 from upstream", "What the gate did when upstream refused a request for its rate or for overload.", "Upstream refused nothing."],
  ["retries", "Sent again", "Why requests were sent again.", "Nothing was sent again."],
].map(([id, label, help, empty]) => {
  const options = { caption: label, columns: counts(label, help), key: keyed("name"), empty };
  return [id, new Table(id, options)];
});

const usage = new Table("usage", {
  caption: "Usage by day",
  columns: USAGE,
  key: keyed("day"),
  empty: "Nothing was used yet.",
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
