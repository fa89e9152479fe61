// Numbers, sizes and times as people read them. Anything unknown is a dash.

const UNKNOWN = "–";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 1,204 · 1.2M */
export function count(value) {
  if (!known(value)) return UNKNOWN;
  return Math.abs(value) < 1e6 ? grouped.format(value) : short.format(value);
}

/** 1,204 documents · 1 document */
export function counted(value, singular, plural = `${singular}s`) {
  return `${count(value)} ${value === 1 ? singular : plural}`;
}

/** 0 · 3.4 · 1,204 · 1.2M */
export function rate(value) {
  if (!known(value)) return UNKNOWN;
  return value > 0 && value < 9.95 ? value.toFixed(1) : count(value);
}

/** For the ticks of an axis: 0.5 · 300 · 12.5K */
export function tick(value) {
  return value >= 1e4 ? short.format(value) : precise.format(value);
}

/** For the ticks of an axis of time: 0 · 50 ms · 2.5 s */
export function tickOfTime(value) {
  if (value === 0) return "0";
  return value >= 1000 ? `${tick(value / 1000)} s` : `${tick(value)} ms`;
}

/** 8.4 ms · 120 ms · 1.25 s */
export function milliseconds(value) {
  if (!known(value)) return UNKNOWN;
  if (value >= 1e4) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** 0.04 % · 12.5 % · 100 % */
export function percent(share) {
  if (!known(share)) return UNKNOWN;
  const value = share * 100;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  const digits = value === 0 || value > 99.95 ? 0 : value < 1 ? 2 : 1;
  return `${value.toFixed(digits)} %`;
}

/** 42 s · 12 min · 3 h 20 min · 4 d 2 h */
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${whole} s`;
}

/** now · 42 s ago */
export function ago(seconds) {
  if (!known(seconds)) return UNKNOWN;
  return seconds < 2 ? "now" : `${duration(seconds)} ago`;
}

/** 14:03:22, by the clock of the reader; `time` in Unix seconds. */
export function clock(time) {
  return new Date(time * 1000).toLocaleTimeString("en-GB");
}

/** 3 Mar 2026, 14:03, by the clock of the reader; `time` in Unix seconds. */
export function date(time) {
  return new Date(time * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** A message of a program, written as a sentence. */
export function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** [0, 1, 2, 5] becomes 0–2, 5 */
export function ranges(numbers) {
  const parts = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}
