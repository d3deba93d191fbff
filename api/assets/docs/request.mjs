// The form that sends a request, and what comes back.
import { element, pretty, scrollable } from "./dom.mjs";
import { resolved } from "./schema.mjs";

/** A text in single quotes, as a shell reads it. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The same request as a command. The token is a variable of the shell: it is shown nowhere. */
function curl({ method, url, headers, body }, isStream, hasToken) {
  const words = [isStream ? "curl -iN" : "curl -i"];
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
    // None is chosen: a required one is asked for.
    const options = ["", ...schema.enum];
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
  const isStream = operation.responses["200"]?.content?.["text/event-stream"] !== undefined;
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
  const command = scrollable("", "The request as a command");
  const outcome = element("div", { className: "outcome" });
  // The status only: a screen reader would read all of the body.
  const announced = element("p", { className: "muted", role: "status" });

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
  const show = () => { command.textContent = curl(request(), isStream, token() !== ""); };

  const made = element("form", { className: "try", autocomplete: "off" },
    element("h4", {}, "Send a request"),
    inputs.map(({ row }) => row),
    choice === null ? null : element("div", { className: "input" },
      element("label", { htmlFor: choice.id }, "Example of a body"), choice),
    body === null ? null : element("div", { className: "input" },
      element("label", { htmlFor: body.id }, "Body"), body),
    element("p", {}, send),
    command,
    announced,
    outcome);
  made.addEventListener("input", show);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    announced.textContent = "Sent. Waiting for the answer.";
    outcome.replaceChildren();
    const { said, parts } = await answered(request(), token());
    announced.textContent = said;
    outcome.replaceChildren(...parts);
    send.disabled = false;
  });
  show();
  return { made, show };
}

/** How long an answer is waited for: longer than the longest `wait`. */
const PATIENCE_S = 90;

/** Sends a request, and returns what is said and shown of its answer. */
async function answered({ method, url, headers, body }, token) {
  const sent = token === "" ? headers : { ...headers, authorization: `Bearer ${token}` };
  try {
    const signal = AbortSignal.timeout(PATIENCE_S * 1000);
    const answer = await fetch(url, { method, headers: sent, body, credentials: "omit", cache: "no-store", signal });
    const isStream = answer.headers.get("content-type")?.startsWith("text/event-stream") === true;
    const text = isStream ? await firstEvent(answer) : await answer.text();
    const lines = [...answer.headers].map(([name, value]) => `${name}: ${value}`);
    const status = element("p", {},
      element("strong", { className: `status ${answer.status < 400 ? "ok" : "bad"}` }, `${answer.status} ${answer.statusText}`));
    const parts = [element("h5", {}, "Answer"), status, scrollable(lines.join("\n"), "Header fields")];
    if (text !== "") parts.push(scrollable(indented(text), "Body"));
    const said = isStream ? "The first event has come. The stream is closed." : `Answered with ${answer.status}.`;
    return { said, parts };
  } catch (error) {
    const why = error.name === "TimeoutError" ? `nothing came within ${PATIENCE_S} seconds` : error.message;
    return { said: `No answer: ${why}.`, parts: [] };
  }
}

/** The first event of a stream, which would not end. */
async function firstEvent(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n\n")) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
  }
  await reader.cancel();
  return text.split("\n\n")[0];
}

/** JSON on several lines; anything else as it is. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
