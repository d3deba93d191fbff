// The tables: workers, receivers, handlers and failed requests.

import { clock, count, make, milliseconds, perSecond, place, visible } from "/ui/dom.mjs";
import { button, show } from "/ui/request.mjs";

// --- A table that changes in place ---------------------------------------------------------------
// Only the cells that say something new are replaced: a selection, or the focus on a button, would
// be lost each second. A cell is a text, or an element, which is made anew with another text.

const element = (text, of) => ({ text, of });
const row = (name, ...cells) => ({ name, cells });

// The tables by the id of their place: what they begin with, and their rows by name.
const tables = new Map();

function fill(id, heads, rows, empty) {
  const begins = JSON.stringify(rows.length === 0 ? [empty] : heads);
  if (tables.get(id)?.begins !== begins) {
    const body = make("tbody");
    tables.set(id, { begins, body, rows: new Map() });
    const head = heads.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
    place(id).replaceChildren(rows.length === 0 ? make("p", {}, empty)
      : make("table", {}, make("thead", {}, make("tr", {}, ...head)), body));
  }
  const table = tables.get(id);
  const names = new Set(rows.map(({ name }) => name));
  for (const [name, shown] of table.rows) {
    if (names.has(name)) continue;
    shown.line.remove();
    table.rows.delete(name);
  }
  rows.forEach(({ name, cells }, number) => {
    let shown = table.rows.get(name);
    if (shown === undefined) {
      const line = make("tr", {}, ...heads.map(([, kind], at) =>
        at === 0 ? make("th", { scope: "row", class: kind }) : make("td", { class: kind })));
      shown = { line, texts: [] };
      table.rows.set(name, shown);
    }
    cells.forEach((cell, at) => write(shown, at, cell));
    const there = table.body.children[number] ?? null;
    if (there !== shown.line) table.body.insertBefore(shown.line, there);
  });
}

function write(shown, at, cell) {
  const isText = typeof cell === "string";
  const text = isText ? cell : cell.text;
  if (shown.texts[at] === text) return;
  shown.texts[at] = text;
  shown.line.children[at].replaceChildren(isText ? visible(text) : cell.of());
}

export function clear() {
  for (const id of tables.keys()) place(id).replaceChildren();
  tables.clear();
}

// --- What they show ------------------------------------------------------------------------------

const state = (word, kind) => element(word, () => make("span", { class: `state ${kind}` }, word));
const STATES = { closed: "good", "half-open": "poor", open: "bad" };
const breaker = (word) => (word ? state(word, STATES[word] ?? "") : "–");

// To whole seconds: most cells then stay as they are.
const seconds = (ms) => milliseconds(Math.floor(ms / 1000) * 1000);

function workers(list) {
  const heads = [["worker", "id"], ["last heartbeat", "number"], ["lease", "number"], ["slots in use", "number"],
    ["delivered", "number"], ["failed", "number"], ["runs for", "number"]];
  const rows = list.map((it) => {
    const slots = it.slots === null ? "–" : `${it.slots_used} of ${it.slots}`;
    const uptime = it.uptime_ms === null ? "–" : seconds(it.uptime_ms);
    return row(it.owner, it.owner, heartbeat(it.heartbeat_age_ms, it.lease_ms), lease(it), slots, perSecond(it.completed),
      perSecond(it.failed), uptime);
  });
  fill("workers", heads, rows, "No worker has registered: jobs wait.");
}

// A worker renews its lease every half second, or more often.
function heartbeat(age, length) {
  if (age === null) return "–";
  if (age < 2000) return "now";
  const text = `${seconds(age)} ago`;
  const late = Math.min((length ?? 15_000) / 2, 5000);
  return age < late ? text : state(text, age >= late * 1.5 ? "bad" : "poor");
}

// What is left of it: after its end, other workers take the jobs.
function lease({ heartbeat_age_ms: age, lease_ms: length }) {
  if (length === null || age === null) return "–";
  return age < length ? `${seconds(length - age)} left` : state("expired", "bad");
}

function receivers(list, withClients) {
  const heads = [["receiver", "name-column"], ...(withClients ? [["client", ""]] : []), ["breaker", "state-column"],
    ["attempts now", "number"], ["backlog", "number"]];
  const rows = list.map((it) => row(JSON.stringify([it.origin, it.client]), it.origin,
    ...(withClients ? [it.client ?? "–"] : []),
    it.paused ? state("paused", "poor") : breaker(it.breaker), count(it.jobs), count(it.backlog)));
  fill("receivers", heads, rows, "No worker names one, and none has a backlog.");
}

function handlers(list) {
  const heads = [["handler", "name-column"], ["breaker", "state-column"], ["waiting", "number"], ["running", "number"],
    ["workers", "number"]];
  const rows = list.map((it) => row(it.name, it.name, breaker(it.breaker?.state ?? null), count(it.waiting),
    count(it.running), count(it.workers)));
  fill("handlers", heads, rows, "There is none.");
}

function failures(list) {
  const heads = [["request", "id"], ["ended", "time"], ["receiver", "name-column"], ["reason", "state-column"], ["detail", "words"],
    ["", ""]];
  const rows = (list ?? []).map((it) => {
    const id = element(it.id, () => make("button", { type: "button", click: () => show(it.id).then(() =>
      place("request").scrollIntoView({ block: "nearest" })) }, it.id));
    // A failed request of /sync has no callback.
    const redeliver = it.receiver === null ? ""
      : element("Redeliver", () => button("redeliver", it.id, "Redeliver", "failures-outcome"));
    return row(it.id, id, it.completed_at === null ? "–" : clock(it.completed_at), it.receiver ?? "–",
      it.failure?.reason ?? "–", it.failure?.detail ?? "", redeliver);
  });
  fill("failures", heads, rows,
    list === null ? "They are being read." : "None among the newest 10,000 requests.");
}

// Shows what is there now.
export function update(now, withClients) {
  place("of-workers").hidden = now.workers === null;
  if (now.workers !== null) workers(now.workers);
  receivers(now.receivers, withClients);
  handlers(now.handlers);
  failures(now.failures);
}
