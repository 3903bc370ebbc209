// Numbers, times and amounts as text. An unknown value is a dash.

export const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const instant = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const known = (format) => (value) => (isNumber(value) ? format(value) : NONE);

/** 1234567 as "1,234,567". */
export const count = known((value) => whole.format(value));

/** 1234567 as "1.23M"; numbers below 10,000 in full. */
export const compact = known((value) =>
  Math.abs(value) < 9999.5 ? whole.format(value) : short.format(value));

/** A rate: one decimal below 100. */
export const rate = known((value) => (value < 99.95 ? value.toFixed(1) : whole.format(value)));

/** A fraction as "33%". */
export const percent = known((value) => `${Math.round(value * 100)}%`);

/** Dollars; `null` is a cost that is not known. */
export function money(value) {
  if (value === null) return "unknown";
  if (!isNumber(value)) return NONE;
  if (value === 0) return "$0.00";
  if (value < 0.0001) return "<$0.0001";
  return `$${value < 0.99995 ? value.toFixed(4) : cents.format(value)}`;
}

const two = (value) => String(value).padStart(2, "0");

/** Seconds as "340 ms", "12.3 s", "2 min 05 s", "3 h 12 min" or "4 d 03 h". */
export const duration = known((seconds) => {
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds);
  if (all < 3600) return `${Math.floor(all / 60)} min ${two(all % 60)} s`;
  const minutes = Math.floor(all / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  const hours = Math.floor(minutes / 60);
  return `${Math.floor(hours / 24)} d ${two(hours % 24)} h`;
});

/** An age in whole seconds: fractions would change at every glance. */
export const ago = known((seconds) => (seconds < 1 ? "just now" : `${duration(Math.floor(seconds)).replace(".0", "")} ago`));

/** Milliseconds as a duration. */
export const ms = known((value) => duration(value / 1000));

/** An RFC 3339 instant as the time of day here. */
export const clock = (text) => formatted(text, time);

/** The same, with the day and the time zone. */
export const day = (text) => formatted(text, instant);

function formatted(text, format) {
  const date = new Date(text ?? NaN);
  return Number.isNaN(date.getTime()) ? NONE : format.format(date);
}

/** "budget_exceeded" as "budget exceeded". */
export const words = (name) => String(name).replaceAll("_", " ");
