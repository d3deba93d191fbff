// Elements and the form of values. All text is inserted as text: names of reports and the details
// of failures come from others.

export const place = (id) => document.getElementById(id);

// A text with its control characters in a visible form: those of Unicode can turn around what
// follows, so that it reads as something else.
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
export const visible = (text) =>
  text.replace(CONTROLS, (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`);

// An element with these attributes and children. A child that is no element is text.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  const given = children.filter((child) => child !== null && child !== undefined);
  element.append(...given.map((child) => (child instanceof Node ? child : visible(String(child)))));
  return element;
}

// Three digits, without zeros at the end; whole numbers with all of their digits.
const short = (value) => String(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 259_200_000) return `${short(ms / 86_400_000)} days`;
  if (ms >= 3_600_000) return `${short(ms / 3_600_000)} h`;
  if (ms >= 60_000) return `${short(ms / 60_000)} min`;
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  return ms >= 1 || ms === 0 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

// 1.23, 1,234, and from ten thousand on 12.3K.
export function count(value) {
  if (value === null || value === undefined) return "–";
  return value >= 999.5 && value < 9999.5 ? whole.format(value) : compact.format(value);
}

export const perSecond = (rate) => (rate === null || rate === undefined ? "–" : `${count(rate)}/s`);

// --- Times: RFC 3339 or milliseconds, in the zone of the browser ---------------------------------

const digits = (value, width) => String(value).padStart(width, "0");

export function timeOfDay(at, withMillis = false) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  const parts = [date.getHours(), date.getMinutes(), date.getSeconds()];
  const time = parts.map((part) => digits(part, 2)).join(":");
  return withMillis ? `${time}.${digits(date.getMilliseconds(), 3)}` : time;
}

// The time, with its date if that is not today's.
export function clock(at, withMillis = false) {
  const date = new Date(at);
  const time = timeOfDay(at, withMillis);
  if (Number.isNaN(date.getTime()) || date.toDateString() === new Date().toDateString()) return time;
  return `${date.getFullYear()}-${digits(date.getMonth() + 1, 2)}-${digits(date.getDate(), 2)} ${time}`;
}
