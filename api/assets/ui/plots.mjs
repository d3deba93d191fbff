// The plots: the last five minutes, one sample a second.

import { count, make, milliseconds, perSecond, place, timeOfDay } from "/ui/dom.mjs";

const KEPT = 300; // as the service keeps them
// A longer gap between samples is a lost connection: a busy process is late by less.
const GAP = 5_000;
const DASHES = { sync: [8, 3], async: [], callback: [2, 3], bad: [8, 3, 2, 3], neutral: [4, 4] };
const WIDTHS = { thin: 1.25, thick: 2.5 };
const FORMATS = { ms: milliseconds, rate: perSecond, jobs: count };

const percentile = (name, number) => (sample) => sample[name]?.[number] ?? null;
const figure = (name) => (sample) => sample[name] ?? null;

const line = (name, ink, weight, of) => ({ name, ink, weight, of });

const PLOTS = [
  {
    title: "How long clients wait: /sync beside /async",
    text: "/sync: until its report, or until it has waited too long for its turn. /async: until its " +
      "202. The scale is logarithmic.",
    unit: "ms",
    log: true,
    lines: [
      line("/sync p99", "sync", "thick", percentile("sync_ms", 2)),
      line("/sync p95", "sync", "thin", percentile("sync_ms", 1)),
      line("/sync p50", "sync", "thin", percentile("sync_ms", 0)),
      line("/async p99", "async", "thick", percentile("ack_ms", 2)),
      line("/async p95", "async", "thin", percentile("ack_ms", 1)),
      line("/async p50", "async", "thin", percentile("ack_ms", 0)),
    ],
  },
  {
    title: "Jobs accepted and delivered",
    text: "By this API process: accepted, and refused for the load (429 or 5xx). In all workers, " +
      "whoever accepted the job: delivered (ended COMPLETED), and failed.",
    unit: "rate",
    lines: [
      line("accepted", "async", "thick", figure("accepted")),
      line("delivered", "callback", "thick", figure("completed")),
      line("failed", "bad", "thin", figure("failed")),
      line("refused", "neutral", "thin", figure("refused")),
    ],
  },
  {
    title: "Requests to /sync answered and refused",
    text: "By this API process. Refused: 429 or 5xx, also when a request was not finished in time.",
    unit: "rate",
    lines: [
      line("answered", "sync", "thick", figure("sync")),
      line("refused", "bad", "thick", figure("sync_refused")),
    ],
  },
  {
    title: "Time to the callback",
    text: "From the submission to the delivered callback, in all workers. The scale is logarithmic.",
    unit: "ms",
    log: true,
    lines: [
      line("p99", "callback", "thick", percentile("callback_ms", 2)),
      line("p95", "callback", "thin", percentile("callback_ms", 1)),
      line("p50", "callback", "thin", percentile("callback_ms", 0)),
    ],
  },
  {
    title: "Backlog",
    text: "Jobs that are not over. Due: those of them that wait for a worker.",
    unit: "jobs",
    lines: [
      line("unfinished", "async", "thick", figure("backlog")),
      line("due", "sync", "thin", figure("due")),
    ],
  },
  {
    title: "Age of the oldest due job",
    text: "For how long it has waited for a worker. No line: nothing waits, or the database does not answer.",
    unit: "ms",
    lines: [line("oldest due", "sync", "thick", figure("oldest_due_ms"))],
  },
];

const samples = [];
const drawn = [];
const root = document.documentElement;
const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

function axis(format, more) {
  return {
    stroke: () => color("muted"),
    grid: { stroke: () => color("rule"), width: 1 },
    ticks: { stroke: () => color("rule"), width: 1, size: 5 },
    border: { show: true, stroke: () => color("rule"), width: 1 },
    font: "12px system-ui, sans-serif",
    values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))),
    ...more,
  };
}

const fromZero = (least) => (_, _min, max) => [0, Math.max(least, max * 1.06)];
function decades(_, min, max) {
  if (min === null || max === null || !(min > 0)) return [1, 1000];
  const low = 10 ** Math.floor(Math.log10(min));
  const high = 10 ** Math.ceil(Math.log10(max));
  return low === high ? [low, low * 10] : [low, high];
}
// The same minutes in every plot: those that there are, and at least one.
function lastMinutes(_, min, max) {
  const end = max ?? Date.now() / 1000;
  return [Math.max(end - KEPT, Math.min(min ?? end, end - 60)), end];
}

function options(plot, area) {
  const format = FORMATS[plot.unit];
  return {
    width: area.clientWidth,
    height: area.clientHeight,
    // On the right, half of the last label.
    padding: [10, 30, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 }, sync: { key: "live" } },
    scales: {
      x: { time: false, range: lastMinutes },
      y: { distr: plot.log ? 3 : 1, range: plot.log ? decades : fromZero(plot.unit === "ms" ? 1000 : 1) },
    },
    axes: [
      axis((at) => timeOfDay(at * 1000), { size: 30, space: 80, incrs: [10, 15, 30, 60, 120] }),
      axis(format, { size: 64, space: plot.log ? 22 : 36 }),
    ],
    series: [
      {},
      ...plot.lines.map((it) => ({
        label: it.name,
        show: it.button.ariaPressed === "true",
        stroke: () => color(it.ink),
        width: WIDTHS[it.weight],
        dash: it.weight === "thick" ? [] : DASHES[it.ink].length ? DASHES[it.ink] : [3, 3],
        points: { show: false, filter: lone, size: 2 * WIDTHS[it.weight], width: 0, fill: () => color(it.ink) },
      })),
    ],
    hooks: { setCursor: [() => showValues(plot)] },
  };
}

// The values without one beside them: a line has two points. uPlot draws none for null.
function lone(u, series) {
  const values = u.data[series];
  const found = [];
  values.forEach((value, at) => {
    if (value !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null) found.push(at);
  });
  return found.length === 0 ? null : found;
}

// A time without samples is a gap in the lines.
function data(plot) {
  const columns = [[], ...plot.lines.map(() => [])];
  let last = null;
  for (const sample of samples) {
    if (last !== null && sample.at - last > GAP) {
      columns[0].push((last + 1000) / 1000);
      plot.lines.forEach((_, number) => columns[number + 1].push(null));
    }
    last = sample.at;
    columns[0].push(sample.at / 1000);
    plot.lines.forEach((it, number) => {
      const value = it.of(sample);
      // A logarithmic scale has no zero.
      columns[number + 1].push(plot.log && !(value > 0) ? null : value);
    });
  }
  return columns;
}

// The values at the cursor, or the last ones.
function showValues(plot) {
  const { u } = plot;
  if (u === null) return;
  const last = u.data[0].length - 1;
  const index = u.cursor.idx ?? last;
  plot.lines.forEach((it, number) => {
    const value = u.data[number + 1][index] ?? null;
    it.value.textContent = FORMATS[plot.unit](value);
  });
}

// The plots have a description for those who can't see them: the last values are in the legend.
function build() {
  for (const plot of PLOTS) {
    const area = make("div", {
      class: "plot", "data-plot": plot.title, role: "img", tabindex: "0", "aria-label": `Plot: ${plot.title}. Values are below.`,
    });
    const legend = make("div", { class: "legend", role: "group", "aria-label": "Lines" });
    Object.assign(plot, { area, u: null });
    plot.lines.forEach((it, number) => {
      it.value = make("span", { class: "value" }, "–");
      const shown = number < 3 || plot.lines.length <= 4 || it.weight === "thick" || it.name.endsWith("p50");
      it.button = make("button", { type: "button", class: it.ink, "aria-pressed": String(shown) },
        swatch(it), make("span", { class: "name" }, it.name), it.value);
      it.button.addEventListener("click", () => {
        const show = it.button.ariaPressed !== "true";
        it.button.ariaPressed = String(show);
        plot.u?.setSeries(number + 1, { show });
      });
      legend.append(it.button);
    });
    area.addEventListener("keydown", (event) => onKey(event, plot));
    place("plots").append(make("figure", {},
      make("figcaption", {}, make("h3", {}, plot.title), make("p", {}, plot.text)), area, legend));
    drawn.push(plot);
  }
  const sizes = new ResizeObserver(() => drawAll());
  for (const plot of drawn) sizes.observe(plot.area);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const plot of drawn) plot.u?.redraw(false, true);
  });
}

// As the line is drawn.
function swatch(it) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const stroke = document.createElementNS(space, "path");
  svg.setAttribute("width", "24");
  svg.setAttribute("height", "8");
  svg.setAttribute("aria-hidden", "true");
  stroke.setAttribute("d", "M0 4H24");
  stroke.setAttribute("stroke", "currentColor");
  stroke.setAttribute("stroke-width", String(WIDTHS[it.weight]));
  if (it.weight === "thin") {
    const dash = DASHES[it.ink].length ? DASHES[it.ink] : [3, 3];
    stroke.setAttribute("stroke-dasharray", dash.join(" "));
  }
  svg.append(stroke);
  return svg;
}

function onKey(event, plot) {
  const { u } = plot;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (u === null || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") {
    u.setCursor({ left: -10, top: -10 });
    return;
  }
  if (!(event.key in steps)) return;
  event.preventDefault();
  const last = u.data[0].length - 1;
  if (last < 0) return;
  const to = Math.min(last, Math.max(0, (u.cursor.idx ?? last) + steps[event.key]));
  u.setCursor({ left: u.valToPos(u.data[0][to], "x"), top: 10 });
}

function drawAll() {
  for (const plot of drawn) {
    const { area } = plot;
    if (area.clientWidth === 0) continue;
    if (plot.u === null) {
      plot.u = new uPlot(options(plot, area), data(plot), area);
    } else if (plot.u.width !== area.clientWidth || plot.u.height !== area.clientHeight) {
      plot.u.setSize({ width: area.clientWidth, height: area.clientHeight });
    }
  }
}

function refresh() {
  drawAll();
  for (const plot of drawn) {
    plot.u?.setData(data(plot));
    showValues(plot);
  }
}

// The samples stay in the order of time: a clock that was set back begins anew from there.
function push(sample) {
  while (samples.length > 0 && samples.at(-1).at >= sample.at) samples.pop();
  samples.push(sample);
  while (samples.length > KEPT || samples[0].at < sample.at - KEPT * 1000) samples.shift();
}

// Begins with the samples that the service has kept, after those from before them: a process that
// has just started has none.
export function begin(kept) {
  kept.forEach(push);
  refresh();
}

export function add(sample) {
  push(sample);
  refresh();
}

export function clear() {
  samples.length = 0;
  refresh();
}

build();
