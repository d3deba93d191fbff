// The reference of the API: made of its description, /openapi.json.
import { element, inline, pretty, prose, scrollable } from "./dom.mjs";
import { form } from "./request.mjs";
import { ANSWERED, field, fields, resolved, within } from "./schema.mjs";

const state = document.getElementById("state");
const main = document.getElementById("main");
const index = document.getElementById("index");
const tokenInput = document.getElementById("token");
const token = () => tokenInput.value.trim();

const WHO = {
  client: "For clients: with `API_TOKENS` it needs a client's token.",
  operator: "For operators: it needs a token of `ADMIN_TOKENS`.",
  metrics: "For scrapers: it needs the token of `METRICS_TOKEN` if that is set, or else a client's.",
};

function access(operation) {
  const names = operation.security.flatMap((it) => Object.keys(it));
  return prose(names.length === 0 ? "For all: it needs no token." : WHO[names[0]]);
}

function heading(method, path) {
  return [element("span", { className: `method ${method}` }, method.toUpperCase()), element("code", {}, path)];
}

function named(examples) {
  return Object.entries(examples ?? {}).map(([name, example]) => {
    const { summary, value } = resolved(example);
    return element("details", {}, element("summary", {}, "Example ", element("code", {}, name), " ", inline(summary ?? "")),
      scrollable(pretty(value), `Example ${name}`));
  });
}

/** The answers with one status. */
function answer(status, response) {
  const inner = element("div", { className: "inner" });
  const isGood = status.startsWith("2") || status.startsWith("3");
  const kinds = Object.keys(response.content ?? {});
  const names = kinds.flatMap((kind) => Object.keys(response.content[kind].examples ?? {}));
  const label = isGood ? response.description.split("\n")[0] : names.join(", ");
  // Made when it is opened: most are not, and together they are thousands of elements.
  const made = element("details", {}, element("summary", {},
    element("span", { className: `status ${isGood ? "ok" : "bad"}` }, status), " ", inline(label)), inner);
  made.addEventListener("toggle", () => {
    if (!made.open || inner.childElementCount > 0) return;
    const headers = Object.entries(response.headers ?? {});
    for (const kind of kinds) {
      const { schema, examples } = response.content[kind];
      inner.append(element("h4", {}, "Body: ", element("code", {}, kind)));
      inner.append(...named(examples));
      inner.append(element("details", {}, element("summary", {}, "Its fields"), fields(schema, ANSWERED)));
    }
    if (headers.length > 0) {
      inner.append(element("h4", {}, "Header fields"), element("dl", { className: "fields" },
        headers.map(([name, header]) => {
          const it = resolved(header);
          return field(name, it.schema, it.required === true, it.description, ANSWERED);
        })));
    }
  });
  return made;
}

const shown = [];

function operation(path, method, it) {
  const parameters = it.parameters ?? [];
  const body = it.requestBody?.content["application/json"];
  const { made, show } = form(it, path, method.toUpperCase(), token);
  shown.push(show);
  return element("article", { id: it.operationId },
    element("h3", {}, heading(method, path)),
    element("p", { className: "summary" }, it.summary),
    prose(it.description),
    access(it),
    parameters.length === 0 ? null : [
      element("h4", {}, "Parameters"),
      element("dl", { className: "fields" }, parameters.map((parameter) =>
        field(parameter.name, parameter.schema, parameter.required === true, parameter.description))),
    ],
    body === undefined ? null : [
      element("h4", {}, "Body"), fields(body.schema), named(body.examples),
    ],
    element("h4", {}, "Answers"),
    element("div", { className: "answers" },
      Object.entries(it.responses).map(([status, response]) => answer(status, response))),
    it.callbacks === undefined ? null : callback(Object.values(Object.values(it.callbacks)[0])[0].post),
    made);
}

/** What the worker sends when the job has ended. */
function callback(it) {
  const body = it.requestBody.content["application/json"];
  return [
    element("h4", {}, "The callback"),
    prose(it.description),
    element("details", {}, element("summary", {}, "Its header fields"),
      element("dl", { className: "fields" }, it.parameters.map((parameter) =>
        field(parameter.name, parameter.schema, parameter.required === true, parameter.description)))),
    element("details", {}, element("summary", {}, "The fields of its body"), fields(body.schema, ANSWERED)),
    named(body.examples),
    element("p", {}, "What the receiver answers:"),
    element("ul", {}, Object.entries(it.responses).map(([status, response]) =>
      element("li", {}, element("code", {}, status), ": ", inline(response.description)))),
  ];
}

function show(description) {
  within(description);
  const methods = ["get", "post", "delete", "put", "patch"];
  const all = Object.entries(description.paths).flatMap(([path, item]) =>
    methods.filter((method) => item[method]).map((method) => ({ path, method, it: item[method] })));
  const sections = description.tags.map((tag) => {
    const own = all.filter(({ it }) => it.tags.includes(tag.name));
    index.append(element("h2", {}, tag.name), element("ul", {}, own.map(({ path, method, it }) =>
      element("li", {}, element("a", { href: `#${it.operationId}` }, heading(method, path))))));
    return element("section", {}, element("h2", {}, tag.name), prose(tag.description),
      own.map(({ path, method, it }) => operation(path, method, it)));
  });
  // It stays where it is: a screen reader is told that the page is there.
  state.textContent = `${all.length} operations.`;
  main.append(
    element("section", {}, prose(description.info.description),
      element("p", { className: "muted" }, `Version ${description.info.version}`)),
    ...sections);
  // The place that the address names is there only now.
  if (location.hash !== "") document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

// Without room beside the text, the list would hide it.
if (matchMedia("(max-width: 46rem)").matches) document.getElementById("contents").open = false;
document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
tokenInput.addEventListener("input", () => shown.forEach((again) => again()));

try {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`its status is ${answer.status}`);
  show(await answer.json());
} catch (error) {
  state.textContent = `The description can't be shown: ${error.message}.`;
}
