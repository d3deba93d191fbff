"""A browser for tests: Chromium without a window, driven by chromedriver over plain HTTP.

Needs Python's standard library only.
"""

import base64
import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.request

# How long a page may take for what a test waits for, in seconds: a busy machine is slow.
PATIENCE = 300

TAB = "\ue004"
ENTER = "\ue007"
ARROW_RIGHT = "\ue014"


class Browser:
    """A session of Chromium. `close` ends it and the driver."""

    def __init__(self, chromium, chromedriver):
        # Port 0: the driver takes a free port and prints it.
        self.driver = subprocess.Popen(
            [chromedriver, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = None
        for line in self.driver.stdout:
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                self.address = f"http://127.0.0.1:{found[1]}"
                break
        self.session = None
        if self.address is None:
            self.close()
            raise RuntimeError("chromedriver did not start")
        options = {
            "binary": chromium,
            # Root may use no sandbox; a container has little shared memory.
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-background-networking",
                "--no-first-run",
            ],
        }
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            answer = self.ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self.close()
            raise
        self.session = answer["sessionId"]

    def ask(self, method, path, body=None):
        """Sends a command and returns its value."""
        base = f"{self.address}/session"
        url = base if self.session is None else f"{base}/{self.session}{path}"
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            problem = json.load(error)["value"]
            raise RuntimeError(f"{path}: {problem['error']}: {problem['message']}") from None

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """Runs JavaScript in the page and returns what it returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script, *arguments):
        """Waits until JavaScript returns something true, and returns that."""
        deadline = time.monotonic() + PATIENCE
        while True:
            value = self.run(script, *arguments)
            if value:
                return value
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {PATIENCE} s: {script}")
            time.sleep(0.05)

    def press(self, *keys):
        actions = []
        for key in keys:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.ask("POST", "/actions", {"actions": [source]})

    def devtools(self, command, **parameters):
        """A command of the DevTools protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def show_as(self, theme, width, height=800):
        """Emulates a screen: `light` or `dark`, so many pixels wide."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file, selector=None):
        """Writes a PNG file of the whole page, and not only of what a screen shows; or of its first
        element that matches `selector`, with a margin."""
        clip = {} if selector is None else {"clip": self.box(selector)}
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, **clip)
        with open(file, "wb") as png:
            png.write(base64.b64decode(taken["data"]))

    def box(self, selector):
        """Where an element is in the page, with a margin, in pixels."""
        return self.run(
            """
            const { left, top, width, height } =
                document.querySelector(arguments[0]).getBoundingClientRect();
            const margin = 16;
            return {
                x: Math.max(left + scrollX - margin, 0), y: Math.max(top + scrollY - margin, 0),
                width: width + 2 * margin, height: height + 2 * margin, scale: 1,
            };
            """,
            selector,
        )

    def screenshot_of_screen(self, file):
        """Writes what the screen shows, of a page that is too long for one picture."""
        taken = self.devtools("Page.captureScreenshot")
        with open(file, "wb") as png:
            png.write(base64.b64decode(taken["data"]))

    def console(self):
        """What the console has got since the last call: warnings and errors, as text."""
        entries = self.ask("POST", "/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def requests(self):
        """The URLs that were asked for since the last call."""
        entries = self.ask("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [it["params"] for it in messages if it["method"] == "Network.requestWillBeSent"]
        return [it["request"]["url"] for it in sent]

    def close(self):
        if self.session is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self.ask("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
