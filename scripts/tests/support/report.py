"""Opens reports in a browser, each light and dark, wide and narrow, and looks for what is wrong.

usage: report.py CHROMIUM CHROMEDRIVER SCREENSHOTS REPORT...

Prints a line for each view. Exits with 1 if something is wrong.
"""

import pathlib
import sys

from looks import BLANK, DRAWN, SHIFTS, THEMES, WATCH_SHIFTS, WIDTHS
from looks import cut_off, from_elsewhere, keyboard, too_wide
from webdriver import ARROW_RIGHT, ENTER, Browser

# What the plot with the cursor says of it.
READOUT = "return document.querySelector('.plot-area:has(.legend) .axis.x span').textContent;"


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
    problems += too_wide(browser) + cut_off(browser)
    browser.screenshot(png)
    problems += keyboard(browser) + keys(browser)
    problems += [f"console: {entry}" for entry in browser.console()]
    return problems + from_elsewhere(browser, ("file:", "data:"))


def keys(browser):
    """The keys do what they are for."""
    problems = []
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
