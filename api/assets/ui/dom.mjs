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

// Three digits at most, without zeros at the end.
const short = (value) => String(Number(value.toPrecision(3)));

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 3_600_000) return `${short(ms / 3_600_000)} h`;
  if (ms >= 60_000) return `${short(ms / 60_000)} min`;
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  return ms >= 1 || ms === 0 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  return value >= 1e4 ? `${short(value / 1000)}k` : short(value);
}

export const perSecond = (rate) => (rate === null || rate === undefined ? "–" : `${count(rate)}/s`);

// The time of day of an RFC 3339 time or of milliseconds, in the zone of the browser.
export function clock(at, digits = 0) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  return date.toLocaleTimeString(undefined, {
    hour12: false,
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    ...(digits ? { fractionalSecondDigits: digits } : {}),
  });
}
