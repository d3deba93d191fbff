"""Takes the README's pictures, each light and dark: the main plot of a report, and the live page
during a storm that /sync is too slow for.

usage: pictures.py CHROMIUM CHROMEDRIVER FOLDER report FILE
       pictures.py CHROMIUM CHROMEDRIVER FOLDER live ADDRESS
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tests" / "support"))

from looks import DRAWN, THEMES
from webdriver import Browser

# A narrow column, as the README is one: text stays legible when it is scaled to that.
REPORT_WIDTH = 920
# Wide enough for two plots beside each other.
LIVE_WIDTH = 1280

# Clients of /sync wait for more than a second.
DROWNED = """
    const shown = document.querySelector("[data-tile=sync]").textContent;
    return / s$/.test(shown) && parseFloat(shown) >= 1.5;
"""


def report(browser, folder, file):
    for theme in THEMES:
        browser.show_as(theme, REPORT_WIDTH)
        browser.open(pathlib.Path(file).absolute().as_uri())
        browser.until(DRAWN)
        # Latency against the offered rate, of /sync and of /async.
        browser.screenshot(folder / f"report-{theme}.png", "section:has(figure) figure:nth-of-type(2)")


def live(browser, folder, address):
    # From the beginning, so that the page has seen all waves.
    browser.show_as("light", LIVE_WIDTH, height=1400)
    browser.open(address)
    browser.until(DROWNED)
    for theme in THEMES:
        browser.show_as(theme, LIVE_WIDTH, height=1400)
        # The plots are drawn anew in the theme's colours with the next sample.
        before = browser.run("return performance.now()")
        browser.until("return performance.now() > arguments[0] + 3000", before)
        browser.screenshot(folder / f"live-{theme}.png", "#totals")


def main(chromium, chromedriver, folder, what, shown):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    browser = Browser(chromium, chromedriver)
    try:
        {"report": report, "live": live}[what](browser, folder, shown)
    finally:
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 6 or sys.argv[4] not in ("report", "live"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
