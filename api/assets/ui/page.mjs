// The live page: reads the service's feed, and asks for a token if the service does.

import { clock, count, milliseconds, perSecond, place } from "/ui/dom.mjs";
import * as plots from "/ui/plots.mjs";
import { setOperator } from "/ui/request.mjs";
import { watch } from "/ui/stream.mjs";
import * as tables from "/ui/tables.mjs";
import { forgetToken, setToken, token } from "/ui/token.mjs";

let stop = () => {};
let lostSince = null;
let seesAll = false;
let isOperator = false;

// What came of an action, which stays for a moment.
const SHOWN = 8000;
let said = { text: "", until: 0 };
function say(text) {
  said = { text, until: Date.now() + SHOWN };
  connected();
}
function connected() {
  connection("open", Date.now() < said.until ? `Connected. ${said.text}` : "Connected");
}

function connection(state, text) {
  const shown = place("connection");
  shown.dataset.state = state;
  // Only what is new is told to those who listen.
  if (shown.textContent !== text) shown.textContent = text;
}

function notice(text) {
  const shown = place("notice");
  if (shown.textContent !== text) shown.textContent = text;
}

function tiles(sample) {
  const values = {
    accepted: perSecond(sample.accepted),
    completed: perSecond(sample.completed),
    ack: milliseconds(sample.ack_ms?.[2]),
    sync: milliseconds(sample.sync_ms?.[2]),
    callback: milliseconds(sample.callback_ms?.[2]),
    backlog: count(sample.backlog),
    due: count(sample.due),
    oldest: milliseconds(sample.oldest_due_ms),
  };
  for (const tile of document.querySelectorAll("[data-tile]")) tile.textContent = values[tile.dataset.tile];
}

function now(it) {
  if (it === null) return;
  const words = [];
  if (it.paused) words.push("Everything is paused.");
  if (it.stale) words.push("The database does not answer: the tables are old.");
  notice(words.join(" "));
  tables.update(it, seesAll && it.receivers.some((receiver) => receiver.client !== null),
    say);
}

function begin(it) {
  seesAll = it.client === null;
  const whose = isOperator ? "An operator's view: everything."
    : it.client === null ? "" : `What the client ${it.client} may see: its own receivers and failures.`;
  const totals = it.samples === null ? " The totals of the service are for its operators." : "";
  place("whose").textContent = whose + totals;
  place("totals").hidden = it.samples === null;
  place("watching").hidden = false;
  if (it.samples !== null) {
    plots.begin(it.samples);
    if (it.samples.length > 0) tiles(it.samples.at(-1));
  }
  now(it.now);
}

function start() {
  stop();
  place("ask-token").hidden = true;
  place("forget").hidden = token() === null;
  stop = watch({
    open(path) {
      isOperator = path === "/admin/overview";
      setOperator(isOperator);
      lostSince = null;
      connected();
    },
    event(name, data) {
      if (name === "history") begin(data);
      if (name === "sample") {
        if (data.sample !== null) {
          plots.add(data.sample);
          tiles(data.sample);
        }
        now(data.now);
        connected();
      }
    },
    lost(detail) {
      lostSince ??= Date.now();
      connection("lost", `Disconnected since ${clock(lostSince)}. ${detail}`);
    },
    refused(detail) {
      lostSince = null;
      connection("waiting", "Not connected");
      notice("");
      place("watching").hidden = true;
      place("forget").hidden = true;
      place("token-problem").textContent = detail ?? "";
      forgetToken();
      place("ask-token").hidden = false;
      place("token").focus();
    },
  });
}

place("ask-token").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = place("token");
  const value = input.value.trim();
  input.value = "";
  // A header takes no other characters, and no token has them.
  if (!/^[\x21-\x7e]+$/.test(value)) {
    place("token-problem").textContent = "A token has letters, digits and signs of ASCII only.";
    return;
  }
  setToken(value);
  start();
});

place("forget").addEventListener("click", () => {
  forgetToken();
  place("request").replaceChildren();
  place("watching").hidden = true;
  start();
});

start();
