// Draws the plots of a report from the data in the page. Everything else, the numbers included, is
// there without it.

const plots = JSON.parse(document.getElementById("plots").textContent);
const root = document.documentElement;
const places = [...document.querySelectorAll("[data-plot]")];
const drawn = new Map(); // the place of each plot that is drawn, with its uPlot

const MINUS = "\u2212";

const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

// Three digits at most, without zeros at the end.
const short = (value) => String(Number(value.toPrecision(3))).replace("-", MINUS);

const FORMATS = {
  milliseconds: (ms) => {
    if (ms >= 60_000) return `${short(ms / 60_000)} min`;
    if (ms >= 1000) return `${short(ms / 1000)} s`;
    return ms >= 1 || ms === 0 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
  },
  seconds: (s) => {
    if (s < 120) return `${short(s)} s`;
    const whole = Math.round(s);
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
    const tail = `${two(minutes)}:${two(whole % 60)}`;
    return hours > 0 ? `${hours}:${tail}` : tail;
  },
  per_second: (rate) => `${thousands(rate)}/s`,
  percent: (share) => `${short(share)} %`,
  count: (count) => thousands(count),
};

function thousands(value) {
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  return value >= 1e4 ? `${short(value / 1000)}k` : short(value);
}

// The longest of these texts, in pixels of the plot's font.
const ruler = document.createElement("canvas").getContext("2d");
const FONT = "12px system-ui, sans-serif";
function widest(texts) {
  ruler.font = FONT;
  return Math.ceil(Math.max(0, ...texts.map((text) => ruler.measureText(text ?? "").width)));
}

function axis(unit, more) {
  const format = FORMATS[unit];
  return {
    stroke: () => color("muted"),
    grid: { stroke: () => color("rule"), width: 1 },
    ticks: { stroke: () => color("rule"), width: 1, size: 5 },
    border: { show: true, stroke: () => color("rule"), width: 1 },
    font: FONT,
    values: (_, splits) => splits.map((value) => (value == null ? "" : format(value))),
    ...more,
  };
}

// The width of the axis on the left. Where time is the same, it begins at the same place.
function leftAxis(plot) {
  const lanes = plot.together ? plots.filter((it) => it.together === plot.together) : [];
  const names = lanes.flatMap((it) => it.lanes ?? []);
  return (_, texts) => widest([...names, ...(texts ?? ["10 ms"])]) + 14;
}

const DASHES = { sync: [8, 3], async: [], callback: [2, 3], bad: [8, 3, 2, 3], neutral: [4, 4] };
const WIDTHS = { thin: 1.25, medium: 2, thick: 3 };

// A range that shows every value, also a single one.
function timeRange(u, min, max) {
  const [at] = u.data;
  // For a single one, uPlot gives a range of its own.
  if (at.length < 2) return [Math.max(0, (at[0] ?? 0) - 1), (at[0] ?? 0) + 1];
  return [min, max];
}
const fromZero = (_, _min, max) => [0, max > 0 ? max * 1.06 : 1];
function decades(_, min, max) {
  if (min == null) return [1, 10];
  const [low, high] = uPlot.rangeLog(min, max, 10, false);
  return low === high ? [low / 10, high * 10] : [low, high];
}

// The parts of options that both kinds of plot share.
function common(place, plot, rest) {
  const together = plot.together;
  return {
    width: place.clientWidth,
    height: place.clientHeight,
    // On the right, half of the last label.
    padding: [10, 24, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      drag: { x: true, y: false },
      points: { size: 7 },
      ...(together ? { sync: { key: together, setSeries: false, scales: ["x", null] } } : {}),
    },
    ...rest,
  };
}

function linesOf(place, plot) {
  const { x, y } = plot;
  const data = [plot.at, ...plot.lines.map((line) => line.cells.map(cell))];
  const options = common(place, plot, {
    scales: {
      x: { time: false, distr: x.log ? 3 : 1, range: x.log ? decades : timeRange },
      y: { distr: y.log ? 3 : 1, range: y.log ? decades : fromZero },
    },
    axes: [
      axis(x.unit, { size: 30, space: 64 }),
      axis(y.unit, { size: leftAxis(plot), space: y.log ? 22 : 36 }),
    ],
    series: [
      {},
      ...plot.lines.map((line) => ({
        label: line.name,
        show: line.shown,
        stroke: () => color(line.ink),
        width: WIDTHS[line.weight],
        dash: DASHES[line.ink],
        // A line through few points, or one, shows them.
        points: { show: line.cells.filter((it) => typeof it === "number").length <= 40, size: 6 },
      })),
    ],
    hooks: {
      draw: [(u) => marks(u, plot)],
      setCursor: [(u) => readValues(place, plot, u)],
    },
  });
  const u = new uPlot(options, data, place);
  for (const button of buttons(place)) {
    u.setSeries(Number(button.dataset.line) + 1, { show: button.ariaPressed === "true" });
  }
  return u;
}

// uPlot's `undefined` is a point that a line does not have, and its `null` a gap in the line.
const cell = (value) => (value === false ? undefined : value);

const buttons = (place) => [...place.parentElement.querySelectorAll("button[data-line]")];

function marks(u, plot) {
  const { ctx } = u;
  const scale = devicePixelRatio;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  ctx.textBaseline = "top";
  plot.marks.forEach((mark, index) => {
    const x = u.valToPos(mark.at, "x", true);
    if (x < left - 1 || x > left + width + 1) return;
    ctx.strokeStyle = color(mark.ink);
    ctx.fillStyle = color(mark.ink);
    ctx.lineWidth = 1.5 * scale;
    ctx.setLineDash([3 * scale, 3 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    // On the side where there is room.
    const room = left + width - x > ctx.measureText(mark.label).width + 8 * scale;
    ctx.textAlign = room ? "left" : "right";
    // One below the other, so that labels of neighbours do not overlap.
    const y = top + (2 + (index % 4) * 16) * scale;
    const at = x + (room ? 5 : -5) * scale;
    ctx.setLineDash([]);
    ctx.lineWidth = 4 * scale;
    ctx.strokeStyle = color("paper");
    ctx.strokeText(mark.label, at, y);
    ctx.fillText(mark.label, at, y);
  });
  ctx.restore();
}

function readValues(place, plot, u) {
  const index = u.cursor.idx;
  const at = document.getElementById(`readout-${place.dataset.plot}`);
  at.textContent = index == null ? "" : FORMATS[plot.x.unit](plot.at[index]);
  for (const button of buttons(place)) {
    const value = index == null ? null : plot.lines[button.dataset.line].cells[index];
    const text = typeof value === "number" ? FORMATS[plot.y.unit](value) : index == null ? "" : "–";
    button.querySelector(".value").textContent = text;
  }
}

// --- Faults --------------------------------------------------------------------------------------

function lanesOf(place, plot) {
  const lanes = plot.lanes.length;
  // The first lane is on top.
  const data = [[0, plot.end], [null, null]];
  const options = common(place, plot, {
    scales: {
      x: { time: false, range: timeRange },
      y: { range: () => [-0.5, lanes - 0.5] },
    },
    axes: [
      axis("seconds", { size: 30, space: 64 }),
      axis("count", {
        size: leftAxis(plot),
        splits: () => plot.lanes.map((_, lane) => lanes - 1 - lane),
        values: () => plot.lanes,
        grid: { stroke: () => color("rule"), width: 1, dash: [2, 4] },
      }),
    ],
    series: [{}, { stroke: "transparent", points: { show: false } }],
    hooks: {
      draw: [(u) => bars(u, plot)],
      setCursor: [(u) => readFaults(place, plot, u)],
    },
  });
  return new uPlot(options, data, place);
}

function bars(u, plot) {
  const { ctx } = u;
  const scale = devicePixelRatio;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  for (const bar of plot.bars) {
    const y = u.valToPos(plot.lanes.length - 1 - bar.lane, "y", true);
    const from = u.valToPos(bar.from, "x", true);
    const to = Math.max(u.valToPos(bar.to, "x", true), from + 3 * scale);
    ctx.fillStyle = color(bar.kill ? "bad" : "sync");
    ctx.globalAlpha = bar.kill ? 0.45 : 0.8;
    ctx.fillRect(from, y - 4 * scale, to - from, 8 * scale);
    ctx.globalAlpha = 1;
    if (!bar.kill) continue;
    const arm = 4 * scale;
    ctx.strokeStyle = color("bad");
    ctx.lineWidth = 2 * scale;
    ctx.beginPath();
    ctx.moveTo(from - arm, y - arm);
    ctx.lineTo(from + arm, y + arm);
    ctx.moveTo(from - arm, y + arm);
    ctx.lineTo(from + arm, y - arm);
    ctx.stroke();
  }
  ctx.restore();
}

// What was broken at the cursor.
function readFaults(place, plot, u) {
  const line = document.getElementById(`readout-${place.dataset.plot}`);
  const { left } = u.cursor;
  if (left == null || left < 0) {
    line.textContent = "";
    return;
  }
  const at = u.posToVal(left, "x");
  const near = u.posToVal(left + 4, "x") - at;
  const broken = plot.bars.filter((bar) => bar.from - near <= at && at <= bar.to + near);
  const what = broken.map((bar) => `${plot.lanes[bar.lane]} (${bar.jobs} jobs in flight)`);
  line.textContent = `${FORMATS.seconds(Math.max(0, at))}: ${what.join(", ") || "nothing broken"}`;
}

// --- All plots -----------------------------------------------------------------------------------

// A plot in a folded section has no width. It is drawn once the section is open.
function draw(place) {
  drawn.get(place)?.destroy();
  drawn.delete(place);
  if (place.clientWidth === 0) return;
  const plot = plots[place.dataset.plot];
  drawn.set(place, plot.kind === "lanes" ? lanesOf(place, plot) : linesOf(place, plot));
}

function drawAll() {
  places.forEach(draw);
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const u = drawn.get(target);
    if (u == null) draw(target);
    else if (target.clientWidth > 0 && u.width !== target.clientWidth) {
      u.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  }
});

// The arrow keys move the cursor from point to point.
function onKey(event) {
  const place = event.currentTarget;
  const u = drawn.get(place);
  if (u == null) return;
  const last = u.data[0].length - 1;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (event.key === "Escape") {
    u.setCursor({ left: -10, top: -10 });
    return;
  }
  if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const plot = plots[place.dataset.plot];
  if (plot.kind === "lanes") {
    const step = steps[event.key] * (plot.end / 200 || 1);
    const now = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : 0;
    const to = Math.min(plot.end, Math.max(0, now + step));
    u.setCursor({ left: u.valToPos(to, "x"), top: 10 });
    return;
  }
  const now = u.cursor.idx ?? (steps[event.key] > 0 ? -1 : last + 1);
  const to = Math.min(last, Math.max(0, now + steps[event.key]));
  u.setCursor({ left: u.valToPos(u.data[0][to], "x"), top: 10 });
}

for (const place of places) {
  place.addEventListener("keydown", onKey);
  for (const button of buttons(place)) {
    button.addEventListener("click", () => {
      const show = button.ariaPressed !== "true";
      button.ariaPressed = String(show);
      drawn.get(place)?.setSeries(Number(button.dataset.line) + 1, { show });
    });
  }
}
drawAll();
for (const place of places) sizes.observe(place);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

// On paper, plots have the colours of the paper.
function forPrint(printing) {
  root.classList.toggle("print", printing);
  drawAll();
}
addEventListener("beforeprint", () => forPrint(true));
addEventListener("afterprint", () => forPrint(false));
