// One request: its fields, its timeline, and what can be done to it.

import { clock, make, milliseconds, place, visible } from "/ui/dom.mjs";
import { ask, detailOf } from "/ui/token.mjs";

// Whether the token is an operator's. Then actions go by the paths of operators.
let isOperator = false;
export function setOperator(is) {
  isOperator = is;
}

// --- Actions -------------------------------------------------------------------------------------

const ACTIONS = {
  redeliver: {
    title: "Redeliver this callback?",
    text: (id) => `The stored result of ${id} is sent to its receiver again, the same bytes.`,
    yes: "Redeliver",
    client: (id) => [`/requests/${encodeURIComponent(id)}/redeliver`, { method: "POST" }],
    done: "The redelivery has started.",
  },
  cancel: {
    title: "Cancel this job?",
    text: (id) => `${id} is not worked on or called back any more. What runs now may still arrive.`,
    yes: "Cancel the job",
    client: (id) => [`/requests/${encodeURIComponent(id)}`, { method: "DELETE" }],
    done: "It is cancelled.",
  },
};

function request(action, id) {
  if (!isOperator) return ACTIONS[action].client(id);
  const body = JSON.stringify({ ids: [id] });
  return [`/admin/${action}`, { method: "POST", headers: { "content-type": "application/json" }, body }];
}

// Asks before it acts. Tells `done` what came of it.
export function act(action, id, done) {
  const { title, text, yes, done: doneText } = ACTIONS[action];
  const dialog = place("confirm");
  place("confirm-title").textContent = title;
  place("confirm-text").textContent = text(id);
  place("confirm-problem").textContent = "";
  const confirm = place("confirm-yes");
  confirm.textContent = yes;
  confirm.disabled = false;
  place("confirm-no").onclick = () => dialog.close();
  confirm.onclick = async () => {
    confirm.disabled = true;
    const problem = await send(action, id);
    if (problem === null) {
      dialog.close();
      done(doneText);
    } else {
      place("confirm-problem").textContent = visible(problem);
      confirm.disabled = false;
    }
  };
  dialog.showModal();
}

// `null`, or why it was not done.
async function send(action, id) {
  try {
    const answer = await ask(...request(action, id));
    if (!answer.ok) return await detailOf(answer);
    const body = await answer.json();
    if (isOperator && body.changed === 0) return "Nothing was changed: it is not in a state for this.";
    return null;
  } catch {
    return "The service does not answer.";
  }
}

export const button = (action, id, label, done) =>
  make("button", { type: "button", click: () => act(action, id, done) }, label);

// --- The request ---------------------------------------------------------------------------------

export async function show(id) {
  const area = place("request");
  place("request-id").value = id;
  if (isOperator) {
    area.replaceChildren(
      make("p", { class: "problem" }, "A token of an operator reads no request: use a client's, or " +
        "storm-api requests show."),
      make("p", {}, button("redeliver", id, "Redeliver", told), " ", button("cancel", id, "Cancel", told)),
    );
    return;
  }
  try {
    const answer = await ask(`/requests/${encodeURIComponent(id)}`);
    if (!answer.ok) {
      area.replaceChildren(make("p", { class: "problem" }, await detailOf(answer)));
      return;
    }
    area.replaceChildren(...described(await answer.json()));
  } catch {
    area.replaceChildren(make("p", { class: "problem" }, "The service does not answer."));
  }
}

function told(text) {
  place("request").prepend(make("p", { class: "lead" }, text));
}

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
    isOver && it.callback_url && !it.redelivery ? button("redeliver", it.id, "Redeliver", again) : null,
    !isOver || it.redelivery ? button("cancel", it.id, "Cancel", again) : null);
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
  const claims = it.claims === 0 ? "not claimed yet"
    : `${it.claims} ${it.claims === 1 ? "claim" : "claims"} by workers, ${it.lost_claims} lost`;
  const rows = steps.map((step) => make("li", { class: step.kind },
    make("strong", {}, step.name),
    make("span", {}, clock(step.at, 3), ` (+${milliseconds(Math.max(0, Date.parse(step.at) - begun))})`,
      step.took === undefined ? "" : `, took ${milliseconds(step.took)}`),
    make("p", {}, step.text)));
  if (it.mode === "async") {
    rows.splice(1, 0, make("li", {}, make("strong", {}, claims), make("p", {}, "")));
  }
  return rows;
}

place("search").addEventListener("submit", (event) => {
  event.preventDefault();
  show(place("request-id").value.trim());
});
