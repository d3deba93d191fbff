// One request: its fields, its timeline, and what can be done to it.

import { clock, make, milliseconds, place, visible } from "/ui/dom.mjs";
import { ask, detailOf } from "/ui/token.mjs";

// So long an answer may take.
const PATIENCE = 30_000;

// Whether the token is an operator's. Then actions go by the paths of operators.
let isOperator = false;
export function setOperator(is) {
  isOperator = is;
}

// What is still on its way when this changes was asked for with another token.
let session = 0;

// Forgets what a token has shown.
export function clear() {
  session += 1;
  isOperator = false;
  place("confirm").close();
  for (const id of ["request", "request-outcome", "failures-outcome"]) place(id).replaceChildren();
  place("request-id").value = "";
}

// --- Actions -------------------------------------------------------------------------------------

const ACTIONS = {
  redeliver: {
    title: "Redeliver this callback?",
    text: (id) => `The stored result of ${id} is sent to its receiver again, the same bytes.`,
    yes: "Redeliver",
    client: (id) => [`/requests/${encodeURIComponent(id)}/redeliver`, { method: "POST" }],
    done: (id) => `The redelivery of ${id} has started.`,
  },
  cancel: {
    title: "Cancel this job?",
    text: (id) => `${id} is not worked on or called back any more. What runs now may still arrive.`,
    yes: "Cancel the job",
    client: (id) => [`/requests/${encodeURIComponent(id)}`, { method: "DELETE" }],
    done: (id) => `${id} is cancelled.`,
  },
};

function request(action, id) {
  if (!isOperator) return ACTIONS[action].client(id);
  const body = JSON.stringify({ ids: [id] });
  return [`/admin/${action}`, { method: "POST", headers: { "content-type": "application/json" }, body }];
}

// Counts the dialogs: what comes of one that was closed meanwhile concerns no later one.
let dialogs = 0;

// Asks before it acts. What came of it stands in `outcome`, the id of an element, until the next
// action. Then `after` is called.
function act(action, id, outcome, after) {
  const { title, text, yes, done } = ACTIONS[action];
  const dialog = place("confirm");
  dialogs += 1;
  const number = dialogs;
  place("confirm-title").textContent = title;
  place("confirm-text").textContent = text(id);
  place("confirm-problem").textContent = "";
  const confirm = place("confirm-yes");
  confirm.textContent = yes;
  confirm.disabled = false;
  place("confirm-no").onclick = () => dialog.close();
  confirm.onclick = async () => {
    confirm.disabled = true;
    for (const it of ["request-outcome", "failures-outcome"]) place(it).textContent = "";
    const asked = session;
    const problem = await send(action, id);
    if (asked !== session) return;
    const isOpen = number === dialogs && dialog.open;
    if (problem === null) {
      if (isOpen) dialog.close();
      place(outcome).textContent = visible(done(id));
      after();
    } else if (isOpen) {
      place("confirm-problem").textContent = visible(problem);
      confirm.disabled = false;
    } else {
      place(outcome).textContent = visible(`${id}: ${problem}`);
    }
  };
  dialog.showModal();
}

// `null`, or why it was not done.
async function send(action, id) {
  try {
    const [path, options] = request(action, id);
    const answer = await ask(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) return await detailOf(answer);
    const body = await answer.json();
    if (isOperator && body.changed === 0) return "Nothing was changed: it is not in a state for this.";
    return null;
  } catch {
    return "The service does not answer.";
  }
}

export const button = (action, id, label, outcome, after = () => {}) =>
  make("button", { type: "button", click: () => act(action, id, outcome, after) }, label);

// --- The request ---------------------------------------------------------------------------------

// Counts what is to be shown: of two answers, the one that was asked for last counts.
let shows = 0;

export async function show(id) {
  shows += 1;
  const [number, asked] = [shows, session];
  place("request-id").value = id;
  const content = isOperator ? toOperator(id) : await read(id);
  if (number === shows && asked === session) place("request").replaceChildren(...content);
}

async function read(id) {
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const answer = await ask(`/requests/${encodeURIComponent(id)}`, { signal });
    if (answer.ok) return described(await answer.json());
    return [make("p", { class: "problem" }, await detailOf(answer))];
  } catch {
    return [make("p", { class: "problem" }, "The service does not answer.")];
  }
}

const toOperator = (id) => [
  make("p", { class: "problem" }, "A token of an operator reads no request: use a client's, or " +
    "storm-api requests show."),
  make("p", {}, button("redeliver", id, "Redeliver", "request-outcome"), " ",
    button("cancel", id, "Cancel", "request-outcome")),
];

function described(it) {
  const again = () => show(it.id);
  const isOver = it.status === "COMPLETED" || it.status === "FAILED";
  const pairs = [
    ["id", make("code", {}, it.id)],
    ["status", it.redelivery ? `${it.status}, redelivery ${it.redelivery}` : it.status],
    ["mode and handler", `${it.mode}, ${it.handler}`],
    ["input", make("code", {}, cut(JSON.stringify(it.input_payload)))],
    ["callback", it.callback_url ?? "none: the client polls"],
    it.waiting_for ? ["waits for", waits(it.waiting_for)] : null,
    it.failure ? ["failure", `${it.failure.reason}: ${it.failure.detail ?? ""}`] : null,
  ].filter((pair) => pair !== null);
  const actions = make("p", { class: "row" },
    make("button", { type: "button", click: again }, "Refresh"),
    isOver && it.callback_url && !it.redelivery ? button("redeliver", it.id, "Redeliver", "request-outcome", again) : null,
    !isOver || it.redelivery ? button("cancel", it.id, "Cancel", "request-outcome", again) : null);
  return [
    make("dl", { class: "pairs" }, ...pairs.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    actions,
    make("h3", {}, "Timeline"),
    make("ol", { class: "timeline" }, ...timeline(it)),
  ];
}

const cut = (text) => (text.length > 500 ? `${text.slice(0, 500)}…` : text);

const waits = ({ reason, until }) => (until ? `${reason}, until ${clock(until)}` : reason);

// What is known of its way, in the order of time.
function timeline(it) {
  const begun = Date.parse(it.created_at);
  const steps = [{ at: it.created_at, kind: "begun", name: "accepted", text: `by ${it.mode}` }];
  for (const attempt of it.attempts) {
    const outcome = attempt.status === null ? attempt.class : `${attempt.class}, status ${attempt.status}`;
    steps.push({
      at: attempt.started_at,
      kind: attempt.class === "success" ? "good" : "bad",
      name: `attempt ${attempt.number}: ${attempt.stage}`,
      took: attempt.duration_ms,
      text: attempt.error ? `${outcome}: ${attempt.error}` : outcome,
    });
  }
  for (const event of it.events) {
    // The attempt itself says more.
    if (event.event === "attempt_failed") continue;
    const text = event.detail ? `claim ${event.claim}: ${event.detail}` : `claim ${event.claim}`;
    steps.push({ at: event.at, kind: "bad", name: event.event.replace("_", " "), text });
  }
  if (it.completed_at !== null) {
    const kind = it.status === "COMPLETED" ? "good" : "bad";
    steps.push({ at: it.completed_at, kind, name: `ended ${it.status}`, text: it.failure?.reason ?? "" });
  }
  if (it.parked_since) steps.push({ at: it.parked_since, kind: "", name: "parked", text: "its receiver is down, busy or paused" });
  if (it.next_attempt_at) steps.push({ at: it.next_attempt_at, kind: "", name: "next attempt", text: "not before this time" });
  if (it.erased_at) steps.push({ at: it.erased_at, kind: "", name: "erased", text: "" });
  steps.sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
  const rows = steps.map((step) => make("li", { class: step.kind },
    make("strong", {}, step.name),
    make("span", {}, clock(step.at, true), ` (+${milliseconds(Math.max(0, Date.parse(step.at) - begun))})`,
      step.took === undefined ? "" : `, took ${milliseconds(step.took)}`),
    make("p", {}, step.text)));
  if (it.mode === "async") {
    rows.splice(1, 0, make("li", {}, make("strong", {}, claims(it)), make("p", {}, "")));
  }
  return rows;
}

// How often workers have claimed it. A cancellation has a claim number, too. `lost_claims` counts
// those in a row only, so the events tell.
function claims(it) {
  const byWorkers = it.claims - (it.failure?.reason === "cancelled" ? 1 : 0);
  if (byWorkers <= 0) return it.completed_at === null ? "not claimed yet" : "claimed by no worker";
  const lost = it.events.filter((event) => event.event === "claim_lost").length;
  const times = byWorkers === 1 ? "claimed by a worker" : `claimed ${byWorkers} times by workers`;
  return lost === 0 ? times : `${times}, ${lost} lost`;
}

place("search").addEventListener("submit", (event) => {
  event.preventDefault();
  show(place("request-id").value.trim());
});
