"""Takes the README's pictures, each light and dark: the main plot of a report.

usage: pictures.py CHROMIUM CHROMEDRIVER REPORT FOLDER
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tests" / "support"))

from report import DRAWN
from webdriver import Browser

# A narrow column, as the README is one: text stays legible when it is scaled to that.
WIDTH = 920


def main(chromium, chromedriver, report, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    browser = Browser(chromium, chromedriver)
    try:
        for theme in ("light", "dark"):
            browser.show_as(theme, WIDTH)
            browser.open(pathlib.Path(report).absolute().as_uri())
            browser.until(DRAWN)
            # Latency against the offered rate, of /sync and of /async.
            browser.screenshot(folder / f"report-{theme}.png", "section:has(figure) figure:nth-of-type(2)")
    finally:
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
