"""What is looked for in the pages that tests open: plots that are drawn, nothing that moves, is too
wide or cut off, and all of it within reach of the keyboard.
"""

from webdriver import TAB

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

# How far the page is wider than the screen, in pixels.
OVERFLOW = "return document.documentElement.scrollWidth - innerWidth;"

# Text that is cut off in its box: what is wider than the box and can't be scrolled.
CUT = """
    return [...document.querySelectorAll("h1,h2,h3,h4,p,li,button,dt,dd,summary,label,nav a")]
        .filter((it) => it.scrollWidth > it.clientWidth + 1 && it.clientWidth > 0)
        .filter((it) => getComputedStyle(it).display !== "inline")
        .map((it) => it.textContent.trim().slice(0, 40));
"""

FOCUSABLE = """
    const all = "a[href],button,summary,input,select,textarea,[tabindex='0']";
    return [...document.querySelectorAll(all)].filter((it) =>
        it.checkVisibility({ visibilityProperty: true }) && !it.disabled &&
        !it.closest("dialog:not([open])")).length;
"""
WATCH_FOCUS = """
    window.focused = new Set();
    window.unmarked = [];
    document.addEventListener("focusin", ({ target }) => {
        window.focused.add(target);
        const style = getComputedStyle(target);
        if (style.outlineStyle === "none") window.unmarked.push(target.outerHTML.slice(0, 80));
    });
"""


def too_wide(browser):
    overflow = browser.run(OVERFLOW)
    return [f"{overflow} pixels wider than the screen"] if overflow > 0 else []


def cut_off(browser):
    cut = browser.run(CUT)
    return [f"text is cut off: {cut}"] if cut else []


def keyboard(browser):
    """Every element for the keyboard is reached, and its focus is marked."""
    problems = []
    # Tabs begin at the top, wherever the focus was.
    browser.run("document.body.tabIndex = -1; document.body.focus();")
    browser.run(WATCH_FOCUS)
    browser.press(*[TAB] * (browser.run(FOCUSABLE) + 2))
    reached, expected = browser.run("return window.focused.size"), browser.run(FOCUSABLE)
    if reached < expected:
        problems.append(f"the keyboard reaches {reached} of {expected} elements")
    unmarked = browser.run("return window.unmarked")
    if unmarked:
        problems.append(f"the focus is not marked: {unmarked[:3]}")
    return problems


def from_elsewhere(browser, own):
    """What was asked for since the last call that does not begin with one of `own`."""
    elsewhere = [url for url in browser.requests() if not url.startswith(own)]
    return [f"it asked for {elsewhere}"] if elsewhere else []
