"""Looks at the live page of a running stack, and uses it.

usage: live_page.py storm|tokens CHROMIUM CHROMEDRIVER SCREENSHOTS API LOADGEN FOLDER

`storm`: a stack without tokens. The caller stops and starts the API when FOLDER has a file
`stop-api` or `start-api`, and removes the file when it is done. `tokens`: a stack with tokens, of
the clients `shop` (43 times s) and `other`, and the operator `ops` (43 times a).

Prints what is wrong. Exits with 1 if something is.
"""

import http.server
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from report import BLANK, OVERFLOW, SHIFTS, WATCH_SHIFTS
from webdriver import PATIENCE, TAB, Browser

WIDTHS = (1280, 360)
THEMES = ("light", "dark")
HOSTILE = '<img src=x onerror="document.title=1"> <script>document.title=2</script> \u202e"\'&amp;'

# As it is shown in JSON, and what turns text around is visible.
SHOWN = HOSTILE.replace('"', '\\"').replace("\u202e", "\\u202e")

CONNECTED = "return document.getElementById('connection').dataset.state === 'open'"
TEXT = "return document.getElementById(arguments[0]).textContent"
HAS_TEXT = "return document.getElementById(arguments[0]).textContent.includes(arguments[1])"
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
CONFIRM = "document.getElementById('confirm-yes').click()"
CLOSED = "return !document.getElementById('confirm').open"
SEND_TOKEN = """
    document.getElementById("token").value = arguments[0];
    document.getElementById("ask-token").requestSubmit();
"""
ASKED = "return !document.getElementById('ask-token').hidden"
HIDDEN = "return document.getElementById(arguments[0]).hidden"
FOCUSABLE = """
    return [...document.querySelectorAll("button, input, a, [tabindex='0']")].filter((it) =>
        it.checkVisibility() && !it.disabled && !it.closest("dialog:not([open])")).length;
"""
WATCH_FOCUS = """
    window.focused = new Set();
    window.unmarked = [];
    document.addEventListener("focusin", ({ target }) => {
        window.focused.add(target.id || target.dataset.key || target);
        const style = getComputedStyle(target);
        if (style.outlineStyle === "none") window.unmarked.push(target.outerHTML.slice(0, 80));
    });
    document.body.tabIndex = -1;
    document.body.focus();
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
                    self.browser.until(f"return (() => {{ {BLANK} }})().length === 0")
                (shifted,) = self.browser.until(SHIFTS)
                self.check(shifted <= 0.01, f"{view}: the layout moved by {shifted}")
                overflow = self.browser.run(OVERFLOW)
                self.check(overflow <= 0, f"{view}: {overflow} pixels wider than the screen")
                self.picture(view)
                self.console()

    def keyboard(self):
        """Every element for the keyboard is reached, and its focus is seen."""
        self.browser.run(WATCH_FOCUS)
        self.browser.press(*[TAB] * (self.browser.run(FOCUSABLE) + 2))
        reached, expected = self.browser.run("return window.focused.size"), self.browser.run(FOCUSABLE)
        self.check(reached >= expected, f"the keyboard reaches {reached} of {expected} elements")
        unmarked = self.browser.run("return window.unmarked")
        self.check(not unmarked, f"the focus is not marked: {unmarked[:3]}")


def storm(test):
    """During a storm: every view, the buttons, and a restart."""
    browser = test.browser
    options = ["--rate", "30", "--duration", "60s", "--records", "10", "--api", test.api]
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = ["--listen", f"localhost:{free.getsockname()[1]}"]
    storms = [
        subprocess.Popen(
            [test.loadgen, "storm", "--mode", mode, *options, *(listen if mode == "async" else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=test.folder,
        )
        for mode in ("sync", "async")
    ]
    try:
        actions(test)
        test.views("storm", plots=True)
        test.keyboard()
    finally:
        for it in storms:
            it.terminate()
            it.wait()
    browser.show_as("light", 1280)
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
    test.check(browser.run(HAS_TEXT, "connection", "redelivery has started"), "it does not say what came of it")
    test.until("the redelivery", lambda: len(Receiver.bodies) > sent)
    test.check(len({body for _, body in Receiver.bodies}) == 1, "the redelivery has other bytes")
    test.until("the end", lambda: test.ask("GET", f"/requests/{failed}")["status"] == "COMPLETED")

    # A job that runs is cancelled by the button.
    browser.run(SEARCH, slow)
    browser.until(HAS_TEXT, "request", slow)
    test.check(browser.run(PRESS, "#request", "Cancel"), "there is no button to cancel")
    browser.run(CONFIRM)
    browser.until(CLOSED)
    browser.until(HAS_TEXT, "request", "cancelled")
    test.check(test.ask("GET", f"/requests/{slow}")["failure"]["reason"] == "cancelled", "it is not cancelled")
    test.picture("request-cancelled")
    test.console()

    # What can't be done says why.
    unknown = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"
    browser.run(SEARCH, unknown)
    browser.until(HAS_TEXT, "request", "No request")
    test.console(allowed=["status of 404"])
    receiver.shutdown()


def reconnect(test):
    browser = test.browser
    browser.open(test.api + "/")
    browser.until(CONNECTED)
    test.console()
    for name in ("stop-api", "start-api"):
        order = test.folder / name
        order.touch()
        test.until(name, lambda: not order.exists())
        if name == "stop-api":
            browser.until(HAS_TEXT, "connection", "Disconnected since")
            test.picture("disconnected")
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

    browser.run("document.getElementById('forget').click()")
    browser.until(ASKED)
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
