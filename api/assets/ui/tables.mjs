// The tables: workers, receivers, handlers and failed requests.

import { clock, count, make, milliseconds, perSecond, place } from "/ui/dom.mjs";
import { button, show } from "/ui/request.mjs";

// Fills a table. Its place is replaced only if something has changed: a selection, or the focus on
// a button, would be lost each second.
const filled = new Map();
function fill(id, heads, rows, empty) {
  const key = JSON.stringify(rows.map((row) => row.key));
  if (filled.get(id) === key) return;
  filled.set(id, key);
  const area = place(id);
  const focused = area.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  if (rows.length === 0) {
    area.replaceChildren(make("p", {}, empty));
    return;
  }
  const head = make("tr", {}, ...heads.map(([name, kind]) => make("th", { scope: "col", class: kind }, name)));
  const body = rows.map((row) => make("tr", {}, ...row.cells.map((cell, number) => {
    const kind = heads[number][1];
    return number === 0 ? make("th", { scope: "row", class: kind }, cell) : make("td", { class: kind }, cell);
  })));
  const { scrollTop, scrollLeft } = area;
  area.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  area.scrollTo(scrollLeft, scrollTop);
  if (focused !== undefined) area.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

// A row of texts, and of elements that follow from them.
const row = (cells, key) => ({ cells, key });

const STATES = { closed: "good", "half-open": "poor", open: "bad" };
function state(word, kind) {
  return make("span", { class: `state ${kind ?? ""}` }, word);
}
const breaker = (word) => (word ? state(word, STATES[word]) : "–");

function workers(list) {
  const heads = [["worker", "id"], ["last heartbeat", "number"], ["slots in use", "number"],
    ["delivered", "number"], ["failed", "number"], ["runs for", "number"]];
  const rows = list.map((it) => {
    const age = it.heartbeat_age_ms;
    // To seconds, so that a table with nothing new is not made anew.
    const beat = age === null ? "–" : age < 2000 ? "now" : `${milliseconds(Math.floor(age / 1000) * 1000)} ago`;
    const slots = it.slots === null ? "–" : `${it.slots_used} of ${it.slots}`;
    const uptime = it.uptime_ms === null ? "–" : milliseconds(Math.floor(it.uptime_ms / 1000) * 1000);
    const texts = [it.owner, beat, slots, perSecond(it.completed), perSecond(it.failed), uptime];
    const cells = [...texts];
    if (age !== null && age >= 5000) cells[1] = state(beat, age >= 10_000 ? "bad" : "poor");
    return row(cells, texts);
  });
  fill("workers", heads, rows, "No worker has registered: jobs wait.");
}

function receivers(list, withClients) {
  const heads = [["receiver", "name-column"], ...(withClients ? [["client", ""]] : []), ["breaker", "state-column"],
    ["attempts now", "number"], ["backlog", "number"]];
  const rows = list.map((it) => {
    const word = it.paused ? "paused" : it.breaker;
    const cells = [it.origin, ...(withClients ? [it.client ?? "–"] : []),
      it.paused ? state("paused", "poor") : breaker(it.breaker), count(it.jobs), count(it.backlog)];
    return row(cells, [it.origin, it.client, word, it.jobs, it.backlog]);
  });
  fill("receivers", heads, rows, "No receiver is being called, has failed or has a backlog.");
}

function handlers(list) {
  const heads = [["handler", "name-column"], ["breaker", "state-column"], ["waiting", "number"], ["running", "number"],
    ["workers", "number"]];
  const rows = list.map((it) => {
    const word = it.breaker?.state ?? null;
    const cells = [it.name, breaker(word), count(it.waiting), count(it.running), count(it.workers)];
    return row(cells, [it.name, word, it.waiting, it.running, it.workers]);
  });
  fill("handlers", heads, rows, "There is none.");
}

function failures(list, notice) {
  const heads = [["request", "id"], ["ended", "time"], ["receiver", "name-column"], ["reason", "state-column"], ["detail", "words"],
    ["", ""]];
  const rows = (list ?? []).map((it) => {
    const id = make("button", { type: "button", "data-key": `show-${it.id}`, click: () => show(it.id).then(() =>
      place("request").scrollIntoView({ block: "nearest" })) }, it.id);
    // A failed request of /sync has no callback.
    const redeliver = it.receiver === null ? "" : button("redeliver", it.id, "Redeliver", notice);
    if (redeliver !== "") redeliver.dataset.key = `redeliver-${it.id}`;
    const ended = it.completed_at === null ? "–" : clock(it.completed_at);
    const cells = [id, ended, it.receiver ?? "–", it.failure?.reason ?? "–", it.failure?.detail ?? "", redeliver];
    return row(cells, [it.id, it.failure, it.completed_at]);
  });
  fill("failures", heads, rows, list === null ? "They are being read." : "No request has failed.");
}

// Shows what is there now. `notice` tells what came of an action.
export function update(now, withClients, notice) {
  place("of-workers").hidden = now.workers === null;
  if (now.workers !== null) workers(now.workers);
  receivers(now.receivers, withClients);
  handlers(now.handlers);
  failures(now.failures, notice);
}
