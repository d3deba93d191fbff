"""Looks at the live page of a running stack, and uses it.

usage: live_page.py storm|tokens CHROMIUM CHROMEDRIVER SCREENSHOTS API LOADGEN FOLDER

`storm`: a stack without tokens. The caller stops and starts the API when FOLDER has a file
`stop-api` or `start-api`, and removes the file when it is done. The stack's SQLite file is that of
DB_URL. `tokens`: a stack with tokens, of the clients `shop` (43 times s) and `other`, and the
operator `ops` (43 times a).

Prints what is wrong. Exits with 1 if something is.
"""

import contextlib
import http.server
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

from looks import BLANK, SHIFTS, THEMES, WATCH_SHIFTS, WIDTHS, keyboard, too_wide
from webdriver import PATIENCE, Browser

HOSTILE = '<img src=x onerror="document.title=1"> <script>document.title=2</script> \u202e"\'&amp;'

# As it is shown in JSON, and what turns text around is visible.
SHOWN = HOSTILE.replace('"', '\\"').replace("\u202e", "\\u202e")

CONNECTED = "return document.getElementById('connection').dataset.state === 'open'"
TEXT = "return document.getElementById(arguments[0]).textContent"
HAS_TEXT = "return document.getElementById(arguments[0]).textContent.includes(arguments[1])"
DIVERGES = """
    const time = (name) => {
        const text = document.querySelector(`[data-tile="${name}"]`).textContent;
        const [, number, unit] = /([0-9.]+) (ms|s)/.exec(text) ?? [];
        return Number(number) * (unit === "s" ? 1000 : 1);
    };
    return time("sync") > 3 * time("ack");
"""
TILES = """
    const wanted = ["accepted", "completed", "ack", "sync", "callback"];
    return wanted.every((name) =>
        !/^(–|0\\/s)$/.test(document.querySelector(`[data-tile="${name}"]`).textContent));
"""
SEARCH = """
    document.getElementById("request-id").value = arguments[0];
    document.getElementById("search").requestSubmit();
"""
PRESS = """
    const found = [...document.querySelectorAll(arguments[0] + " button")]
        .find((it) => it.textContent === arguments[1]);
    if (found === undefined) return false;
    found.click();
    return true;
"""
# Every plot is drawn; it may be that no job has waited.
DRAWN = f"""
    const blank = (() => {{ {BLANK} }})();
    return document.querySelector("[data-plot]") !== null &&
        blank.every((title) => title === "Age of the oldest due job");
"""
CONFIRM = "document.getElementById('confirm-yes').click()"
CLOSED = "return !document.getElementById('confirm').open"
SEND_TOKEN = """
    document.getElementById("token").value = arguments[0];
    document.getElementById("ask-token").requestSubmit();
"""
ASKED = "return !document.getElementById('ask-token').hidden"
HIDDEN = "return document.getElementById(arguments[0]).hidden"
# A tab that has been hidden for long: its timer does not wait.
HIDE = """
    Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
    const wait = window.setTimeout;
    window.setTimeout = (act) => wait(act, 0);
    document.dispatchEvent(new Event("visibilitychange"));
    window.setTimeout = wait;
"""
SHOW = """
    delete document.hidden;
    document.dispatchEvent(new Event("visibilitychange"));
"""
# Texts of the page for numbers and times, with what they have to be.
TEXTS = """
    return import("/ui/dom.mjs").then(({ clock, count, milliseconds }) => {
        const at = new Date(2020, 1, 3, 0, 4, 5, 6);
        const today = new Date().setHours(0, 4, 5, 6);
        return [
            [clock(at), "2020-02-03 00:04:05"], [clock(at, true), "2020-02-03 00:04:05.006"],
            [clock(today), "00:04:05"], [clock("x"), "x"],
            [count(null), "–"], [count(0), "0"], [count(1.234), "1.23"], [count(999.7), "1,000"],
            [count(1234), "1,234"], [count(9999.7), "10K"], [count(12345), "12.3K"],
            [count(999999), "1M"], [milliseconds(0.5), "500 µs"], [milliseconds(1234), "1.23 s"],
            [milliseconds(4.5e9), "52.1 days"],
        ].filter(([is, wanted]) => is !== wanted);
    });
"""
# Feeds the plots with samples of /sync: each has so many milliseconds since the first one, and a
# value or null. Returns the last value in the legend, how many pixels have the ink of the lines,
# and the picture.
FEED = """
    const samples = arguments[0];
    return import("/ui/plots.mjs").then(async (plots) => {
        plots.clear();
        for (const [at, ms] of samples)
            plots.add({ at: 1.7e12 + at, sync_ms: ms === null ? null : [ms, ms, ms] });
        // uPlot draws in a microtask.
        await new Promise((done) => setTimeout(done));
        const canvas = document.querySelector("[data-plot^='How long clients wait'] canvas");
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const hex = getComputedStyle(document.documentElement).getPropertyValue("--sync").trim();
        const ink = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
        let inked = 0;
        for (let at = 0; at < data.length; at += 4)
            inked += data[at + 3] > 200 && ink.every((part, number) => data[at + number] === part);
        return [document.querySelector(".legend .value").textContent, inked, canvas.toDataURL()];
    });
"""
# Holds the answer of a request back, until `release` is called.
HOLD = """
    const real = window.fetch;
    window.fetch = async (path, options) => {
        if (!path.startsWith("/requests/")) return real(path, options);
        window.fetch = real;
        const answer = await real(path, options);
        const body = await answer.json();
        await new Promise((release) => { window.release = release; });
        return { ok: true, json: () => Promise.resolve(body) };
    };
"""
IS_HELD = "return window.release !== undefined"
# What has been asked for is shown, if it is, before the timer ends.
RELEASE = "window.release(); return new Promise((done) => setTimeout(done));"
# A worker's id is still the same element after its figures have changed.
KEEP_WORKER = """
    window.worker = document.querySelector("#workers tbody th");
    window.figures = window.worker?.parentElement.textContent;
    return window.worker !== null;
"""
HAS_NEW_FIGURES = """
    return !document.getElementById("workers").textContent.includes(window.figures);
"""
LEFT = """
    const places = ["request", "request-outcome", "failures-outcome", "failures", "receivers",
        "handlers", "workers", "whose", "notice"];
    return places.filter((id) => document.getElementById(id).textContent !== "");
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 410 until it is told to accept."""

    status = 410
    bodies: list = []

    def do_POST(self):
        length = int(self.headers["content-length"])
        Receiver.bodies.append((Receiver.status, self.rfile.read(length)))
        self.send_response(Receiver.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Test:
    def __init__(self, browser, screenshots, api, loadgen, folder):
        self.browser = browser
        self.screenshots = pathlib.Path(screenshots)
        self.api = api
        self.loadgen = loadgen
        self.folder = pathlib.Path(folder)
        self.problems = []

    def check(self, holds, problem):
        if not holds:
            self.problems.append(problem)

    def ask(self, method, path, body=None, token=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if data else {}
        if token:
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def until(self, what, holds):
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {PATIENCE} s: {what}")
            time.sleep(0.1)

    def console(self, allowed=()):
        """The console must be empty, but for messages of the network where they are due."""
        for entry in self.browser.console():
            if not any(text in entry for text in allowed):
                self.problems.append(f"console: {entry}")

    def picture(self, name):
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.browser.screenshot(self.screenshots / f"live-{name}.png")

    def views(self, name, plots):
        for theme in THEMES:
            for width in WIDTHS:
                view = f"{name}-{theme}-{width}"
                self.browser.show_as(theme, width)
                self.browser.open(self.api + "/")
                self.browser.run(WATCH_SHIFTS)
                self.browser.until(CONNECTED)
                if plots:
                    self.browser.until(TILES)
                    self.browser.until(DRAWN)
                (shifted,) = self.browser.until(SHIFTS)
                self.check(shifted <= 0.01, f"{view}: the layout moved by {shifted}")
                self.problems += [f"{view}: {it}" for it in too_wide(self.browser)]
                self.picture(view)
                self.console()


def storm(test):
    """During a storm: every view, the buttons, and a restart."""
    browser = test.browser
    def begin(mode, rate, *listen):
        # Longer than the test can take: they are ended when it has seen enough.
        options = ["--rate", str(rate), "--duration", "1h", "--records", "10", "--api", test.api]
        return subprocess.Popen(
            [test.loadgen, "storm", "--mode", mode, *options, *listen],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=test.folder,
        )

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    storms = [begin("sync", 30), begin("async", 30, "--listen", f"localhost:{port}")]
    try:
        actions(test)
        # More than /sync can answer: the page shows it drown beside /async.
        storms.append(begin("sync", 60))
        browser.until(DIVERGES)
        browser.until(HAS_TEXT, "receivers", "closed")
        test.views("storm", plots=True)
        test.problems += keyboard(browser)
        test.check(all(it.poll() is None for it in storms), "a storm has ended by itself")
    finally:
        for it in storms:
            it.terminate()
            it.wait()
    browser.show_as("light", 1280)
    browser.open(test.api + "/")
    browser.until(CONNECTED)
    dead_database(test)
    hidden(test)
    reconnect(test)


def actions(test):
    browser = test.browser
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_address[1]}/"
    job = {"records": 1, "report_name": HOSTILE}
    failed = test.ask("POST", "/async", job | {"callback_url": url})["request_id"]
    slow = test.ask("POST", "/async", {"records": 100_000, "report_name": HOSTILE})["request_id"]

    browser.show_as("light", 1280)
    browser.open(test.api + "/")
    browser.until(CONNECTED)
    title = browser.run("return document.title")
    wrong = browser.run(TEXTS)
    test.check(not wrong, f"texts that should be the second of each: {wrong}")

    # A failure is listed with its reason, and its callback is delivered by the button.
    browser.until(HAS_TEXT, "failures", failed)
    browser.run(SEARCH, failed)
    browser.until(HAS_TEXT, "request", "ended FAILED")
    test.check(browser.run(HAS_TEXT, "request", SHOWN), "the report's name is not shown as it is")
    elements = browser.run("return document.querySelectorAll('#request img, #request script').length")
    test.check(elements == 0, "a report's name has become markup")
    test.check(browser.run("return document.title") == title, "a report's name has run a script")
    test.picture("request-failed")
    Receiver.status = 200
    test.check(browser.run(PRESS, "#failures", "Redeliver"), "there is no button to redeliver")
    test.picture("confirm")
    test.check(not browser.run(CLOSED), "it does not ask before it acts")
    sent = len(Receiver.bodies)
    browser.run(CONFIRM)
    browser.until(CLOSED)
    test.until("the redelivery", lambda: len(Receiver.bodies) > sent)
    test.check(len({body for _, body in Receiver.bodies}) == 1, "the redelivery has other bytes")
    test.until("the end", lambda: test.ask("GET", f"/requests/{failed}")["status"] == "COMPLETED")
    # What came of it is still there after later samples: one has brought a list without it.
    browser.until("return !document.getElementById('failures').textContent.includes(arguments[0])", failed)
    test.check(browser.run(HAS_TEXT, "failures-outcome", f"The redelivery of {failed} has started."),
               "it does not say what came of the redelivery")
    test.check(browser.run(HAS_TEXT, "failures", "None among the newest 10,000"),
               "it does not say how far the list of failures goes")
    test.check(browser.run(TEXT, "connection") == "Connected", "the connection's state is another text")
    test.picture("redelivered")

    # A selection in a table stays.
    browser.until(KEEP_WORKER)
    browser.until(HAS_NEW_FIGURES)
    test.check(browser.run("return window.worker.isConnected"), "the table of workers was made anew")

    # A job that runs is cancelled by the button.
    browser.run(SEARCH, slow)
    browser.until(HAS_TEXT, "request", slow)
    test.check(browser.run(PRESS, "#request", "Cancel"), "there is no button to cancel")
    browser.run(CONFIRM)
    browser.until(CLOSED)
    browser.until(HAS_TEXT, "request", "cancelled")
    test.check(browser.run(HAS_TEXT, "request-outcome", f"{slow} is cancelled."),
               "it does not say what came of the cancellation")
    test.check(browser.run(TEXT, "failures-outcome") == "", "an older outcome is still there")
    test.check(test.ask("GET", f"/requests/{slow}")["failure"]["reason"] == "cancelled", "it is not cancelled")
    test.picture("request-cancelled")
    test.console()

    # What can't be done says why.
    unknown = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"
    browser.run(SEARCH, unknown)
    browser.until(HAS_TEXT, "request", "No request")
    test.console(allowed=["status of 404"])
    receiver.shutdown()


def dead_database(test):
    """The page says that the tables are old, and no longer when the database answers."""
    browser = test.browser
    file = os.environ["DB_URL"].removeprefix("sqlite:")
    with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as database:
        database.execute("ALTER TABLE workers RENAME TO hidden_workers")
        browser.until(HAS_TEXT, "notice", "The database does not answer")
        test.check(browser.run(CONNECTED), "the connection is lost with the database")
        test.picture("dead-database")
        database.execute("ALTER TABLE hidden_workers RENAME TO workers")
    browser.until("return document.getElementById('notice').textContent === ''")
    test.console()


def hidden(test):
    """A hidden tab gives its place back."""
    browser = test.browser
    browser.run(HIDE)
    browser.until(HAS_TEXT, "connection", "Not connected while this tab is hidden")
    browser.run(SHOW)
    browser.until(CONNECTED)
    test.console()


def plots(test):
    """Samples that are rare, of single values, and after the clock was set back. Nothing else comes:
    the page is disconnected."""
    browser = test.browser
    seconds = range(0, 60_000, 1000)
    # A dot has four pixels in full colour, and a line at least one for each of its width.
    _, late, _ = browser.run(FEED, [(at, 20) for at in range(0, 100_000, 4_000)])
    test.check(late > 400, f"a sample in four seconds makes no line: {late} pixels")
    _, rare, _ = browser.run(FEED, [(at, 20) for at in range(0, 100_000, 10_000)])
    test.check(0 < rare < 100, f"ten seconds without a sample are a line: {rare} pixels")
    test.picture("samples-rare")
    value, single, _ = browser.run(FEED, [(at, None if at % 2000 else 20) for at in seconds])
    test.check(single > 60, f"single values make no dots: {single} pixels")
    test.check(value == "–", f"the last sample has no value, and {value} is shown")
    test.picture("samples-single")
    after = [(at, 50) for at in range(30_000, 50_000, 1000)]
    value, _, drawn = browser.run(FEED, [(at, 20) for at in seconds] + after)
    _, _, wanted = browser.run(FEED, [(at, 20) for at in seconds if at < 30_000] + after)
    test.check(drawn == wanted, "after the clock was set back, later samples are still drawn")
    test.check(value == "50 ms", f"after the clock was set back, {value} is shown")
    test.picture("samples-set-back")


def reconnect(test):
    browser = test.browser
    for name in ("stop-api", "start-api"):
        order = test.folder / name
        order.touch()
        test.until(name, lambda: not order.exists())
        if name == "stop-api":
            browser.until(HAS_TEXT, "connection", "Disconnected since")
            test.picture("disconnected")
            plots(test)
    browser.until(CONNECTED)
    test.check(browser.run(TEXT, "connection") == "Connected", "it is not connected again")
    # The browser itself says that nobody listened.
    test.console(allowed=["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE",
                          "ERR_INCOMPLETE_CHUNKED_ENCODING", "status of 503"])


def tokens(test):
    """What is asked for a token, and what it shows."""
    browser = test.browser
    shop, other, operator = ("s" * 43, "o" * 43, "a" * 43)
    job = {"records": 1, "report_name": "x", "callback_url": "http://127.0.0.1:9099/"}
    ids = {}
    for name, token in (("shop", shop), ("other", other)):
        ids[name] = test.ask("POST", "/async", job | {"records": 99_999}, token)["request_id"]
        test.ask("DELETE", f"/requests/{ids[name]}", None, token)
    browser.show_as("light", 1280)
    browser.open(test.api + "/")
    browser.until(ASKED)
    test.check(browser.run(HIDDEN, "watching"), "something is shown without a token")
    test.picture("token")
    test.console(allowed=["status of 401"])

    browser.run(SEND_TOKEN, "x" * 43)
    browser.until("return document.getElementById('token-problem').textContent !== ''")
    test.console(allowed=["status of 401"])

    browser.run(SEND_TOKEN, shop)
    browser.until(CONNECTED)
    browser.until(HAS_TEXT, "failures", ids["shop"])
    test.check(not browser.run(HAS_TEXT, "failures", ids["other"]), "a client sees another one's request")
    test.check(browser.run(HIDDEN, "of-workers"), "a client sees the workers")
    test.check(browser.run(HAS_TEXT, "whose", "shop"), "it does not say whose requests it shows")
    test.check(browser.run("return document.cookie") == "", "there is a cookie")
    test.views("client", plots=False)
    asked = browser.requests()
    test.check(asked and not any(shop in url for url in asked), "the token is in a URL")
    elsewhere = [url for url in asked if not url.startswith((test.api, "data:"))]
    test.check(not elsewhere, f"it asked for {elsewhere}")

    # The next token finds nothing of the last one, even if an answer comes late.
    browser.run(SEARCH, ids["shop"])
    browser.until(HAS_TEXT, "request", ids["shop"])
    browser.run(HOLD)
    browser.run(SEARCH, ids["shop"])
    browser.until(IS_HELD)
    browser.run("document.getElementById('forget').click()")
    browser.until(ASKED)
    browser.run(RELEASE)
    left = browser.run(LEFT)
    test.check(not left, f"without its token, something of a client is left in {left}")
    browser.run(SEND_TOKEN, operator)
    browser.until(CONNECTED)
    for name in ids:
        browser.until(HAS_TEXT, "failures", ids[name])
    test.check(not browser.run(HIDDEN, "of-workers"), "an operator sees no workers")
    test.check(browser.run(PRESS, "#failures", "Redeliver"), "there is no button to redeliver")
    browser.run(CONFIRM)
    # A cancelled job without a result has nothing to deliver.
    browser.until("return document.getElementById('confirm-problem').textContent !== ''")
    test.picture("operator-problem")
    test.console(allowed=["status of 401", "status of 403"])


def main(view, chromium, chromedriver, screenshots, api, loadgen, folder):
    browser = Browser(chromium, chromedriver)
    test = Test(browser, screenshots, api, loadgen, folder)
    try:
        {"storm": storm, "tokens": tokens}[view](test)
    except BaseException:
        test.picture("at-the-failure")
        print(browser.console())
        raise
    finally:
        browser.close()
        for problem in test.problems:
            print(f"FAILED: {problem}")
    return 1 if test.problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 8:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
