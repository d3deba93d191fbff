// The form that sends a request, and what comes back.
import { element, pretty, prose } from "./dom.mjs";
import { resolved } from "./schema.mjs";

/** A text in single quotes, as a shell reads it. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The same request as a command. The token is a variable of the shell: it is shown nowhere. */
function curl({ method, url, headers, body }, hasToken) {
  const words = ["curl -i"];
  if (method !== "GET") words.push(`-X ${method}`);
  words.push(quoted(url));
  if (hasToken) words.push('-H "authorization: Bearer $STORM_TOKEN"');
  for (const [name, value] of Object.entries(headers)) words.push("-H " + quoted(`${name}: ${value}`));
  if (body !== undefined) words.push("-d " + quoted(body));
  return words.join(" \\\n  ");
}

/** A labelled input for a parameter. */
function input(id, parameter) {
  const schema = resolved(parameter.schema) ?? {};
  const label = element("label", { htmlFor: id }, element("code", {}, parameter.name),
    ` in the ${parameter.in}${parameter.required ? ", required" : ""}`);
  let control;
  if (schema.enum) {
    const options = [...(parameter.required ? [] : [""]), ...schema.enum];
    control = element("select", { id }, options.map((word) => element("option", { value: word }, word)));
  } else {
    control = element("input", { id, type: "text", spellcheck: false, autocomplete: "off" });
    control.placeholder = parameter.example === undefined ? "" : String(parameter.example);
  }
  control.required = parameter.required === true;
  return { parameter, control, row: element("div", { className: "input" }, label, control) };
}

/** The form of an operation. `token` returns the bearer token, or an empty text. */
export function form(operation, path, method, token) {
  const id = operation.operationId;
  const inputs = (operation.parameters ?? []).map((parameter, index) => input(`${id}-${index}`, parameter));
  const content = operation.requestBody?.content["application/json"];
  const examples = Object.entries(content?.examples ?? {});
  const body = content === undefined ? null : element("textarea", { id: `${id}-body`, spellcheck: false });
  if (body !== null && examples.length > 0) body.value = pretty(examples[0][1].value);

  const choice = body === null || examples.length < 2 ? null : element("select", { id: `${id}-example` },
    examples.map(([name]) => element("option", { value: name }, name)));
  choice?.addEventListener("change", () => {
    body.value = pretty(content.examples[choice.value].value);
    show();
  });

  const send = element("button", { type: "submit" }, "Send");
  const command = element("pre", { tabIndex: 0 });
  command.setAttribute("aria-label", "The request as a command");
  const outcome = element("div", { className: "outcome" });
  outcome.setAttribute("aria-live", "polite");

  const request = () => {
    const headers = {};
    const query = new URLSearchParams();
    let target = path;
    for (const { parameter, control } of inputs) {
      const value = control.value;
      // An empty one is not sent.
      if (parameter.in === "path") {
        target = target.replace(`{${parameter.name}}`, value === "" ? `{${parameter.name}}` : encodeURIComponent(value));
      } else if (value !== "") {
        if (parameter.in === "query") query.set(parameter.name, value);
        else headers[parameter.name.toLowerCase()] = value;
      }
    }
    if (body !== null) headers["content-type"] = "application/json";
    const text = query.toString();
    const url = `${location.origin}${target}${text === "" ? "" : `?${text}`}`;
    return { method, url, headers, body: body === null ? undefined : body.value };
  };
  const show = () => { command.textContent = curl(request(), token() !== ""); };

  const made = element("form", { className: "try", autocomplete: "off" },
    element("h4", {}, "Send a request"),
    inputs.map(({ row }) => row),
    choice === null ? null : element("div", { className: "input" },
      element("label", { htmlFor: choice.id }, "Example of a body"), choice),
    body === null ? null : element("div", { className: "input" },
      element("label", { htmlFor: body.id }, "Body"), body),
    element("p", {}, send),
    command,
    outcome);
  made.addEventListener("input", show);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    outcome.replaceChildren(element("p", { className: "muted" }, "Sent. Waiting for the answer."));
    outcome.replaceChildren(...await answered(request(), token()));
    send.disabled = false;
  });
  show();
  return { made, show };
}

/** Sends a request, and returns what is shown of its answer. */
async function answered({ method, url, headers, body }, token) {
  const sent = token === "" ? headers : { ...headers, authorization: `Bearer ${token}` };
  try {
    const answer = await fetch(url, { method, headers: sent, body, credentials: "omit", cache: "no-store" });
    const text = await answer.text();
    const lines = [...answer.headers].map(([name, value]) => `${name}: ${value}`);
    const status = element("p", {},
      element("strong", { className: `status ${answer.ok ? "ok" : "bad"}` }, `${answer.status} ${answer.statusText}`));
    const parts = [element("h5", {}, "Answer"), status, block(lines.join("\n"), "Header fields")];
    if (text !== "") parts.push(block(indented(text), "Body"));
    return parts;
  } catch (error) {
    return prose(`No answer: ${error.message}.`);
  }
}

function block(text, label) {
  const made = element("pre", { tabIndex: 0 }, text);
  made.setAttribute("aria-label", label);
  return made;
}

/** JSON on several lines; anything else as it is. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
