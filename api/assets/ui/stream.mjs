// Server-sent events, read with `fetch`: `EventSource` can't send a header.

import { ask, detailOf, token } from "/ui/token.mjs";

// Without an event for this long, something is dead: a sample comes each second.
const SILENCE = 25_000;
// So long an answer may take to begin.
const HEAD = 30_000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

// Which path has the token's view: a client's first. The other one is an operator's.
const PATHS = ["/overview", "/admin/overview"];

// Watches until `stop` is called. `on` has functions:
//   open(path), event(name, data), lost(detail), refused(detail): the token is missing or invalid.
export function watch(on) {
  const controller = new AbortController();
  run(on, controller.signal);
  return () => controller.abort();
}

async function run(on, stopped) {
  let wait = FIRST_WAIT;
  let path = PATHS[0];
  while (!stopped.aborted) {
    let detail = "The connection was closed.";
    try {
      const attempt = new AbortController();
      const abort = () => attempt.abort();
      stopped.addEventListener("abort", abort);
      const deadline = setTimeout(abort, HEAD);
      try {
        const answer = await ask(path, {
          signal: attempt.signal,
          headers: { accept: "text/event-stream" },
        });
        if (answer.ok) {
          clearTimeout(deadline);
          if (stopped.aborted) return;
          on.open(path);
          for await (const [name, data] of eventsOf(answer.body, abort)) {
            if (stopped.aborted) return;
            wait = FIRST_WAIT;
            on.event(name, data);
          }
        } else if (answer.status === 403 && token() !== null && path === PATHS[0]) {
          path = PATHS[1];
          continue;
        } else if (answer.status === 401 || answer.status === 403) {
          const refusal = token() === null ? null : await detailOf(answer);
          if (!stopped.aborted) on.refused(refusal);
          return;
        } else {
          const seconds = Number(answer.headers.get("retry-after"));
          if (seconds > 0) wait = Math.max(wait, seconds * 1000);
          detail = await detailOf(answer);
        }
      } finally {
        clearTimeout(deadline);
        stopped.removeEventListener("abort", abort);
        attempt.abort();
      }
    } catch {
      detail = "The service does not answer.";
    }
    if (stopped.aborted) return;
    on.lost(detail);
    // With jitter: the pages of many must not all come back at the same moment.
    await sleep(wait * (0.75 + Math.random() / 2), stopped);
    wait = Math.min(wait * 2, LONGEST_WAIT);
    path = PATHS[0];
  }
}

function sleep(ms, stopped) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    stopped.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

// The events of a stream, in order: pairs of a name and the data. Comments do not count against the
// silence: they come also when the service has stopped sampling.
async function* eventsOf(body, abort) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let silence = setTimeout(abort, SILENCE);
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      let end = text.indexOf("\n\n");
      while (end >= 0) {
        const event = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (event !== null) {
          clearTimeout(silence);
          silence = setTimeout(abort, SILENCE);
          yield event;
        }
        end = text.indexOf("\n\n");
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length === 0 ? null : [name, JSON.parse(data.join("\n"))];
}
