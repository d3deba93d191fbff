// The live page: reads the service's feed, and asks for a token if the service does.

import { clock, count, milliseconds, perSecond, place } from "/ui/dom.mjs";
import * as plots from "/ui/plots.mjs";
import { clear as clearRequest, setOperator } from "/ui/request.mjs";
import { watch } from "/ui/stream.mjs";
import * as tables from "/ui/tables.mjs";
import { forgetToken, setToken, token } from "/ui/token.mjs";

// So long a hidden tab goes on: it holds one of the places for viewers.
const HIDDEN = 60_000;

let stop = () => {};
// Whether there is a connection, or one is sought.
let isWatching = false;
let lostSince = null;
let seesAll = false;
let isOperator = false;
// Who saw what is shown.
let viewer = null;

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
  const values = sample === null ? {} : {
    accepted: perSecond(sample.accepted),
    completed: perSecond(sample.completed),
    ack: milliseconds(sample.ack_ms?.[2]),
    sync: milliseconds(sample.sync_ms?.[2]),
    callback: milliseconds(sample.callback_ms?.[2]),
    backlog: count(sample.backlog),
    due: count(sample.due),
    oldest: milliseconds(sample.oldest_due_ms),
  };
  for (const tile of document.querySelectorAll("[data-tile]")) tile.textContent = values[tile.dataset.tile] ?? "–";
}

function now(it) {
  if (it === null) return;
  const words = [];
  if (it.paused) words.push("Everything is paused.");
  if (it.stale) words.push("The database does not answer: the tables are old.");
  notice(words.join(" "));
  tables.update(it, seesAll && it.receivers.some((receiver) => receiver.client !== null));
}

// Nothing that one token has shown stays for the next one.
function clear() {
  viewer = null;
  notice("");
  place("whose").textContent = "";
  place("watching").hidden = true;
  tiles(null);
  plots.clear();
  tables.clear();
  clearRequest();
}

function begin(it) {
  // The settings can give a token another name.
  const seen = `${isOperator} ${it.client}`;
  if (viewer !== null && viewer !== seen) {
    clear();
    setOperator(isOperator);
  }
  viewer = seen;
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
  clear();
  place("ask-token").hidden = true;
  place("forget").hidden = token() === null;
  connect();
}

function disconnect() {
  stop();
  isWatching = false;
  lostSince = null;
}

function connect() {
  stop();
  isWatching = true;
  stop = watch({
    open(path) {
      isOperator = path === "/admin/overview";
      setOperator(isOperator);
      lostSince = null;
      connection("open", "Connected");
    },
    event(name, data) {
      if (name === "history") begin(data);
      if (name === "sample") {
        if (data.sample !== null) {
          plots.add(data.sample);
          tiles(data.sample);
        }
        now(data.now);
        connection("open", "Connected");
      }
    },
    lost(detail) {
      lostSince ??= Date.now();
      connection("lost", `Disconnected since ${clock(lostSince)}. ${detail}`);
    },
    refused(detail) {
      disconnect();
      clear();
      connection("waiting", "Not connected");
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
  start();
});

let hiding;
let isPaused = false;
function seenOrNot() {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      if (!isWatching) return;
      disconnect();
      isPaused = true;
      connection("waiting", "Not connected while this tab is hidden");
    }, HIDDEN);
  } else if (isPaused) {
    isPaused = false;
    connection("waiting", "Connecting");
    connect();
  }
}
document.addEventListener("visibilitychange", seenOrNot);

start();
// It can be opened in a tab behind others.
seenOrNot();
