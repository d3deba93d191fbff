"""Opens the reference of the API, light and dark, wide and narrow, looks for what is wrong, and sends
requests with its form.

usage: docs_page.py CHROMIUM CHROMEDRIVER SCREENSHOTS

The API is at STORM_API, and STORM_TOKEN is a client's token. Prints a line for each view. Exits with
1 if something is wrong.
"""

import json
import os
import pathlib
import sys
import urllib.request

from looks import THEMES, WIDTHS, cut_off, from_elsewhere, keyboard, too_wide
from webdriver import ENTER, Browser

# Whether the description is shown.
SHOWN = "return document.querySelectorAll('article').length > 0;"

# The colours of texts that stand out too little from what is behind them (WCAG 2, AA).
PALE = """
    const parts = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const light = (color) => {
        const [red, green, blue] = parts(color).map((it) => it / 255)
            .map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (it) => {
        for (let at = it; at !== null; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (parts(color)[3] !== 0) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const pale = [...document.querySelectorAll("body *")].filter((it) => {
        if (![...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "")) return false;
        const [one, other] = [light(getComputedStyle(it).color), light(behind(it))];
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5;
    });
    return [...new Set(pale.map((it) => `${it.tagName} ${it.textContent.slice(0, 20)}`))].slice(0, 5);
"""

# Inputs without a name for a screen reader.
UNNAMED = """
    return [...document.querySelectorAll("input,select,textarea")]
        .filter((it) => it.labels.length === 0).map((it) => it.id);
"""

FORM = "const form = document.querySelector(`#${arguments[0]} form`);"
# The text of the answer in the form of an operation, once it is there.
ANSWER = FORM + """
    const status = form.querySelector(".outcome .status");
    return status && { status: status.textContent, text: form.querySelector(".outcome").textContent };
"""


def main(chromium, chromedriver, screenshots):
    folder = pathlib.Path(screenshots)
    folder.mkdir(parents=True, exist_ok=True)
    base = os.environ["STORM_API"]
    browser = Browser(chromium, chromedriver)
    wrong = False
    try:
        for theme in THEMES:
            for width in WIDTHS:
                name = f"docs-{theme}-{width}"
                problems = view(browser, base, theme, width, folder, name)
                wrong |= report(name, problems)
        wrong |= report("the form", form(browser, base, folder))
    finally:
        browser.close()
    return 1 if wrong else 0


def report(name, problems):
    for problem in problems:
        print(f"FAILED: {name}: {problem}")
    if not problems:
        print(f"ok: {name}")
    return bool(problems)


def reopen(browser, url):
    # Not the same page with another fragment, which would not be loaded again.
    browser.open("about:blank")
    browser.open(url)
    browser.until(SHOWN)


def view(browser, base, theme, width, folder, name):
    """Opens the reference, and returns what is wrong with it."""
    browser.console()
    browser.requests()
    browser.show_as(theme, width, height=1400)
    reopen(browser, f"{base}/docs")
    problems = []
    with urllib.request.urlopen(f"{base}/openapi.json", timeout=10) as answer:
        described = [
            operation["operationId"]
            for item in json.load(answer)["paths"].values()
            for operation in item.values()
        ]
    shown = browser.run("return [...document.querySelectorAll('article')].map((it) => it.id)")
    if sorted(shown) != sorted(described):
        problems.append(f"it shows {shown}, not {described}")
    problems += looks(browser)
    browser.screenshot_of_screen(folder / f"{name}.png")
    problems += keyboard(browser)
    # With all that can be opened.
    browser.run("for (const it of document.querySelectorAll('details')) it.open = true;")
    browser.until("return document.querySelectorAll('.answers .inner:empty').length === 0")
    browser.run("for (const it of document.querySelectorAll('details')) it.open = true;")
    problems += [f"opened: {problem}" for problem in looks(browser)]
    browser.run("document.getElementById('submitReport').scrollIntoView()")
    browser.screenshot_of_screen(folder / f"{name}-opened.png")
    browser.run("document.querySelector('#submitReport .answers').scrollIntoView()")
    browser.screenshot_of_screen(folder / f"{name}-answers.png")
    problems += [f"console: {entry}" for entry in browser.console()]
    return problems + from_elsewhere(browser, (base, "data:", "about:"))


def looks(browser):
    problems = too_wide(browser) + cut_off(browser)
    # What JavaScript writes of a value that is no text.
    for word in ("[object", "undefined", "NaN"):
        if word in browser.run("return document.body.innerText"):
            problems.append(f"it says {word}")
    for script, what in ((PALE, "pale text"), (UNNAMED, "without a label")):
        found = browser.run(script)
        if found:
            problems.append(f"{what}: {found}")
    return problems


def fill(browser, operation, name, value):
    """Sets the input of a parameter, or the body."""
    browser.run(
        FORM
        + """
        const rows = [...form.querySelectorAll(".input")];
        const row = rows.find((it) => it.textContent.startsWith(arguments[1]));
        const control = row.querySelector("input,select,textarea");
        control.value = arguments[2];
        control.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        operation,
        name,
        value,
    )


def send(browser, operation):
    """Sends the form by the keyboard, and returns what it shows."""
    browser.run(FORM + "form.querySelector('.outcome').replaceChildren();", operation)
    browser.run(FORM + "form.querySelector('button').focus();", operation)
    browser.press(ENTER)
    return browser.until(ANSWER, operation)


def form(browser, base, folder):
    """Sends requests with and without a token, and returns what is wrong."""
    problems = []

    def expect(holds, what):
        if not holds:
            problems.append(what)

    token = os.environ["STORM_TOKEN"]
    browser.show_as("light", 1280, height=1400)
    reopen(browser, f"{base}/docs#submitReport")
    at = browser.run("return document.getElementById('submitReport').getBoundingClientRect().top")
    expect(abs(at) < 200, f"the address leads to {at} pixels from the operation")

    refused = send(browser, "submitReport")
    expect(refused["status"].startswith("401"), f"without a token: {refused}")

    browser.run(
        """
        const input = document.getElementById("token");
        input.value = arguments[0];
        input.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        token,
    )
    body = json.dumps({"records": 10, "report_name": "It's \u00e9"})
    fill(browser, "submitReport", "Body", body)
    fill(browser, "submitReport", "Prefer", "wait=60")
    fill(browser, "submitReport", "Idempotency-Key", "the-first")
    done = send(browser, "submitReport")
    expect(done["status"].startswith("200"), f"a submission: {done}")
    expect("content-location: /requests/" in done["text"], f"no header fields: {done}")
    expect('"status": "COMPLETED"' in done["text"], f"no body: {done}")

    command = browser.run(FORM + "return form.querySelector(':scope > pre').textContent;", "submitReport")
    expect(token not in command, "the command shows the token")
    for part in (
        "$STORM_TOKEN",
        "idempotency-key: the-first",
        "prefer: wait=60",
        f"{base}/async",
        "It'\\''s",
    ):
        expect(part in command, f"the command lacks {part}: {command}")
    browser.run("document.querySelector('#submitReport form').scrollIntoView()")
    browser.screenshot_of_screen(folder / "docs-sent.png")

    location = done["text"].split("content-location: /requests/")[1][:36]
    fill(browser, "getRequest", "id", location)
    found = send(browser, "getRequest")
    expect(found["status"].startswith("200") and location in found["text"], f"a look-up: {found}")
    over = fill(browser, "cancelRequest", "id", location) or send(browser, "cancelRequest")
    expect("request-over" in over["text"], f"a cancellation: {over}")
    fill(browser, "submitReport", "Body", "{")
    broken = send(browser, "submitReport")
    expect(broken["status"].startswith("400"), f"a malformed body: {broken}")

    # A stream has no end: the first event is shown, and the form can be sent again.
    for turn in ("the first", "another"):
        watched = send(browser, "watch")
        expect("event: history" in watched["text"], f"{turn} look at the stream: {watched}")
        at_rest = browser.run(FORM + "return !form.querySelector('button').disabled;", "watch")
        expect(at_rest, f"{turn} look at the stream has no end")
    # What an operator who only presses Send does.
    for operation, part in (
        ("cancelMatching", '"dry_run": true'),
        ("redeliverMatching", '"dry_run": true'),
        ("pause", '"origin": "https://hooks.example"'),
    ):
        begun = browser.run(FORM + "return form.querySelector('textarea').value;", operation)
        expect(part in begun, f"the form of {operation} begins with {begun}")

    # In memory only.
    stored = browser.run("return [localStorage.length, sessionStorage.length, document.cookie]")
    expect(stored == [0, 0, ""], f"it stores {stored}")
    reopen(browser, f"{base}/docs")
    expect(browser.run("return document.getElementById('token').value") == "", "the token stayed")
    return problems


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
