"""Opens reports in a browser, each light and dark, wide and narrow, and looks for what is wrong.

usage: report.py CHROMIUM CHROMEDRIVER SCREENSHOTS REPORT...

Prints a line for each view. Exits with 1 if something is wrong.
"""

import pathlib
import sys

from webdriver import ARROW_RIGHT, ENTER, TAB, Browser

WIDTHS = (1280, 360)
THEMES = ("light", "dark")

# Whether every plot that is not in a folded section is drawn.
DRAWN = """
    if (document.readyState !== "complete") return false;
    const places = [...document.querySelectorAll("[data-plot]")].filter((it) => it.clientWidth > 0);
    return places.every((it) => it.querySelector("canvas"));
"""

# The numbers of plots in which the script has drawn less than axes and lines.
BLANK = """
    return [...document.querySelectorAll("[data-plot]")].filter((place) => {
        const canvas = place.querySelector("canvas");
        if (place.clientWidth === 0) return false;
        if (canvas === null || canvas.width === 0) return true;
        // A copy, because the console warns of reading the canvas itself twice.
        const copy = new OffscreenCanvas(canvas.width, canvas.height);
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        const colors = new Map();
        for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] < 200) continue;
            const color = data.slice(at, at + 3).join();
            colors.set(color, (colors.get(color) ?? 0) + 1);
        }
        const style = getComputedStyle(document.documentElement);
        const inks = ["sync", "async", "callback", "bad", "neutral"].map((name) => {
            const hex = style.getPropertyValue("--" + name).trim().slice(1);
            return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)).join();
        });
        return !inks.some((ink) => (colors.get(ink) ?? 0) >= 8);
    }).map((place) => place.dataset.plot);
"""

# How far the page is wider than the screen, in pixels.
OVERFLOW = "return document.documentElement.scrollWidth - innerWidth;"

# How much of the page moved after it was first drawn: 0 is nothing.
WATCH_SHIFTS = """
    window.shifted = { frames: 0, sum: 0 };
    const observer = new PerformanceObserver((list) => {
        for (const { value } of list.getEntries()) window.shifted.sum += value;
    });
    observer.observe({ type: "layout-shift", buffered: true });
    const frame = () => { window.shifted.frames += 1; requestAnimationFrame(frame); };
    frame();
"""
# After some frames, of which the observer has been told.
SHIFTS = "return window.shifted.frames > 5 && [window.shifted.sum];"

# Text that is cut off in its box: what is wider than the box and can't be scrolled.
CUT = """
    return [...document.querySelectorAll("h1,h2,h3,p,li,button,dt,dd,summary")]
        .filter((it) => it.scrollWidth > it.clientWidth + 1 && it.clientWidth > 0)
        .filter((it) => getComputedStyle(it).display !== "inline")
        .map((it) => it.textContent.trim().slice(0, 40));
"""

FOCUSABLE = """
    const all = [...document.querySelectorAll("a[href],button,summary,[tabindex='0']")];
    return all.filter((it) => it.checkVisibility({ visibilityProperty: true })).length;
"""
# What the plot with the cursor says of it.
READOUT = "return document.querySelector('.plot-area:has(.legend) .axis.x span').textContent;"
WATCH_FOCUS = """
    window.focused = new Set();
    window.unmarked = [];
    document.addEventListener("focusin", ({ target }) => {
        window.focused.add(target);
        const style = getComputedStyle(target);
        if (style.outlineStyle === "none") window.unmarked.push(target.outerHTML.slice(0, 60));
    });
"""


def main(chromium, chromedriver, screenshots, reports):
    folder = pathlib.Path(screenshots)
    folder.mkdir(parents=True, exist_ok=True)
    wrong = False
    browser = Browser(chromium, chromedriver)
    try:
        for report in map(pathlib.Path, reports):
            for theme in THEMES:
                for width in WIDTHS:
                    name = f"report-{report.stem}-{theme}-{width}"
                    problems = view(browser, report, theme, width, folder / f"{name}.png")
                    for problem in problems:
                        print(f"FAILED: {name}: {problem}")
                    if not problems:
                        print(f"ok: {name}")
                    wrong = wrong or bool(problems)
    finally:
        browser.close()
    return 1 if wrong else 0


def view(browser, report, theme, width, png):
    """Opens a report, and returns what is wrong with it."""
    browser.console()
    browser.requests()
    browser.show_as(theme, width)
    browser.open(report.absolute().as_uri())
    browser.until(DRAWN)
    problems = []
    browser.run(WATCH_SHIFTS)
    # Before the screenshot, for which the browser makes the window as high as the page.
    (shifted,) = browser.until(SHIFTS)
    if shifted > 0.01:
        problems.append(f"the layout moved by {shifted}")
    blank = browser.run(BLANK)
    if blank:
        problems.append(f"blank plots: {blank}")
    overflow = browser.run(OVERFLOW)
    if overflow > 0:
        problems.append(f"{overflow} pixels wider than the screen")
    cut = browser.run(CUT)
    if cut:
        problems.append(f"text is cut off: {cut}")
    browser.screenshot(png)
    problems += keyboard(browser)
    problems += [f"console: {entry}" for entry in browser.console()]
    elsewhere = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
    if elsewhere:
        problems.append(f"it asked for {elsewhere}")
    return problems


def keyboard(browser):
    """Every element for the keyboard is reached, marked, and does what it is for."""
    problems = []
    expected = browser.run(FOCUSABLE)
    browser.run(WATCH_FOCUS)
    browser.press(*[TAB] * expected)
    reached = browser.run("return window.focused.size")
    if reached < expected:
        problems.append(f"the keyboard reaches {reached} of {expected} elements")
    unmarked = browser.run("return window.unmarked")
    if unmarked:
        problems.append(f"the focus is not marked: {unmarked[:3]}")
    if browser.run("return document.querySelector('.legend') === null"):
        return problems
    browser.run("document.querySelector('.plot-area:has(.legend) .plot').focus()")
    browser.press(ARROW_RIGHT)
    if not browser.run(READOUT):
        problems.append("the arrow keys do not move the cursor of a plot")
    pressed = "return document.querySelector('.legend button').ariaPressed"
    before = browser.run(pressed)
    browser.run("document.querySelector('.legend button').focus()")
    browser.press(ENTER)
    if browser.run(pressed) == before:
        problems.append("a button of the legend does not toggle its line")
    folded = "return document.querySelector('details.folded [data-plot]') !== null"
    if browser.run(folded):
        browser.run("document.querySelector('details.folded').open = true")
        browser.until(DRAWN)
        blank = browser.run(BLANK)
        if blank:
            problems.append(f"blank plots in an unfolded section: {blank}")
    return problems


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
