// Schemas of the description, as lists of fields.
import { element, prose } from "./dom.mjs";

let description = {};

/** Sets the document that references are within. */
export function within(document) {
  description = document;
}

/** What a reference stands for. */
export function resolved(value) {
  const place = value?.$ref;
  if (place === undefined) return value;
  const names = place.slice(2).split("/").map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
  return resolved(names.reduce((at, name) => at?.[name], description));
}

/** The type of a schema in a few words. */
export function kind(schema) {
  const it = resolved(schema) ?? {};
  if (it.oneOf) return it.oneOf.map(kind).join(" or ");
  if (it.enum) return it.enum.map((word) => String(word)).join(" | ");
  if (it.const !== undefined) return JSON.stringify(it.const);
  const types = [it.type ?? "any JSON"].flat();
  if (it.type === "array") return `array of ${kind(it.items)}`;
  const words = [types.join(" or ")];
  if (it.format) words.push(it.format);
  return words.join(", ");
}

/** The bounds of a schema. */
function bounds(schema) {
  const it = resolved(schema) ?? {};
  const words = [];
  const range = (least, most, what) => {
    if (least !== undefined && most !== undefined) words.push(`${least} to ${most}${what}`);
    else if (most !== undefined) words.push(`at most ${most}${what}`);
    else if (least > 0) words.push(`at least ${least}${what}`);
  };
  range(it.minimum, it.maximum, "");
  range(it.minLength, it.maxLength, " characters");
  range(it.minItems, it.maxItems, " items");
  if (it.pattern) words.push(it.pattern);
  if (it.default !== undefined) words.push(`default ${JSON.stringify(it.default)}`);
  return words.join("; ");
}

/** What is said of a field that clients must send, or of one that an answer may lack. */
const SENT = { always: "required", sometimes: null };
export const ANSWERED = { always: null, sometimes: "not always" };

/** One field or parameter. */
export function field(name, schema, isRequired, text, words = SENT, seen = []) {
  const limits = bounds(schema);
  const word = isRequired ? words.always : words.sometimes;
  const note = text ?? schema.description ?? resolved(schema)?.description;
  return element(
    "div",
    {},
    element(
      "dt",
      {},
      element("code", {}, name),
      element("span", { className: "kind" }, [kind(schema), limits].filter(Boolean).join("; ")),
      word === null ? null : element("span", { className: "required" }, word),
    ),
    element("dd", {}, prose(note), nested(schema, words, seen)),
  );
}

/** The fields of an object within a field. */
function nested(schema, words, seen) {
  let it = schema;
  if (resolved(it)?.oneOf) {
    const others = resolved(it).oneOf.filter((branch) => resolved(branch).type !== "null");
    if (others.length !== 1) return null;
    [it] = others;
  }
  if (resolved(it)?.type === "array") it = resolved(it).items;
  return resolved(it)?.properties ? fields(it, words, seen) : null;
}

/** The fields of a schema: of an object, or of each of its alternatives. */
export function fields(schema, words = SENT, seen = []) {
  const it = resolved(schema) ?? {};
  if (seen.includes(it)) return null;
  const path = [...seen, it];
  if (it.oneOf) {
    return element("div", {}, it.oneOf.map((branch) => [
      element("p", { className: "muted" }, resolved(branch).description ?? ""),
      fields(branch, words, path),
    ]));
  }
  if (!it.properties) return element("p", { className: "muted" }, kind(schema));
  const required = it.required ?? [];
  // Those that must be there first.
  const names = Object.keys(it.properties);
  names.sort((one, other) => required.includes(other) - required.includes(one));
  return element("dl", { className: "fields" }, names.map((name) =>
    field(name, it.properties[name], required.includes(name), undefined, words, path)));
}
