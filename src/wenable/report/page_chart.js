// The front as a chart: accuracy upwards, cost to the right, whiskers for intervals.

const known = (point) => point.cost.value !== null && point.accuracy.value !== null;

/** What was only explored has an accuracy on the search split and no other. */
const knownBehind = (point) => point.cost.value !== null && point.search.value !== null;

/** The cost that has to fit the budget, in shown units: the 99th percentile if wanted and there. */
function costAt(point, at, shown) {
  const value = at === "p99" && point.cost.p99 !== null ? point.cost.p99 : point.cost.value;
  return value === null ? null : value * shown.scale;
}

/** Both axes for what is in view: the fronts with their whiskers, or everything explored too. */
function chartAxes(data, state, width) {
  const shown = data.series.filter((_, s) => !state.hidden.has(s));
  const fronts = (shown.length ? shown : data.series).flatMap((series) => series.points.filter(known));
  const behind = state.view === "all" ? shown.flatMap((series) => series.explored.filter(knownBehind)) : [];
  const ends = (figure, unit) => [
    ...fronts.flatMap((p) => [p[figure].value, p[figure].low ?? p[figure].value, p[figure].high ?? p[figure].value]),
    ...(figure === "cost" && state.at === "p99" ? fronts.map((p) => p.cost.p99 ?? p.cost.value) : []),
    ...behind.map((p) => p[figure === "accuracy" ? "search" : figure].value),
  ].map((value) => value * unit.scale);
  if (!fronts.length) return null;
  const ceiling = data.accuracy.unit === "top-1" ? 100 : Infinity;
  return { x: niceAxis(ends("cost", data.cost), width < 500 ? 4 : 8, 0), y: niceAxis(ends("accuracy", data.accuracy), 6, 0, ceiling) };
}

/** Draw the chart into its place; returns how a deadline and the chosen modes are shown in it. */
function drawChart(place, data, state, choose) {
  const width = Math.max(280, place.clientWidth), height = width < 500 ? 320 : 420;
  const box = { left: 46, right: width - 14, top: 30, bottom: height - 46 };
  const axes = chartAxes(data, state, width);
  if (!axes) {
    place.replaceChildren(make("p", { class: "warning" }, "No point has both figures, so nothing is drawn. The table says why."));
    return null;
  }
  const x = Object.assign(scaler(axes.x, box.left, box.right), { axis: axes.x });
  const y = Object.assign(scaler(axes.y, box.bottom, box.top), { axis: axes.y });
  const names = data.series.map((series) => series.name).join(", ");
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Accuracy against ${data.cost.name} of ${names}. The table of all figures holds the same.` });
  svg.append(draw("clipPath", { id: "plot" }, draw("rect", { x: box.left, y: box.top - 8, width: box.right - box.left + 8, height: box.bottom - box.top + 8 })));
  svg.append(axesOf(box, x, y, `${data.cost.name} (${data.cost.shown})`, `${data.accuracy.name} (${data.accuracy.shown})`));
  const reach = draw("rect", { class: "reach", x: box.left, y: box.top, height: box.bottom - box.top, width: 0 });
  const line = draw("line", { class: "budget-line", y1: box.top - 6, y2: box.bottom });
  const layer = draw("g", { "clip-path": "url(#plot)" });
  svg.append(reach, layer, line);
  const places = { x: (p) => x(p.cost.value * data.cost.scale), y: (p) => y(p.accuracy.value * data.accuracy.scale), behind: (p) => y(p.search.value * data.accuracy.scale) };
  const shown = data.series.map((series, s) => [series, s]).filter(([, s]) => !state.hidden.has(s));
  for (const [series, s] of shown) layer.append(exploredMarks(series, s, places));
  for (const [series, s] of shown) layer.append(frontMarks(data, series, s, places, x, y, state, choose));
  place.replaceChildren(svg);
  return { box, axis: axes.x, line, reach, x, outside: outsideCount(shown, data, axes), show: (budget, chosen) => showBudget(svg, { box, line, reach, x }, budget, chosen) };
}

function showBudget(svg, parts, budget, chosen) {
  const at = Math.min(Math.max(parts.x(budget), parts.box.left), parts.box.right);
  parts.line.setAttribute("x1", at);
  parts.line.setAttribute("x2", at);
  parts.reach.setAttribute("width", at - parts.box.left);
  for (const point of svg.querySelectorAll(".point")) {
    const on = chosen.has(`${point.dataset.series} ${point.dataset.mode}`);
    point.classList.toggle("runs", on);
    point.setAttribute("aria-pressed", String(on));
  }
}

function exploredMarks(series, s, places) {
  return draw("g", { class: `explored ${colourOf(s)}`, "aria-hidden": "true" },
    ...series.explored.filter(knownBehind).map((p) => draw("circle", { cx: places.x(p), cy: places.behind(p), r: 2.6 })));
}

function outsideCount(shown, data, axes) {
  const within = (value, axis) => value >= axis.low && value <= axis.high;
  return shown.flatMap(([series]) => series.explored.filter(knownBehind))
    .filter((p) => !within(p.cost.value * data.cost.scale, axes.x) || !within(p.search.value * data.accuracy.scale, axes.y)).length;
}

/** A series' line, whiskers and points; arrow keys walk from point to point. */
function frontMarks(data, series, s, places, x, y, state, choose) {
  const points = series.points.filter(known);
  const line = points.filter((p) => p.front).map((p) => `${places.x(p)},${places.y(p)}`).join(" ");
  const group = draw("g", { class: `front ${colourOf(s)}`, role: "group", "aria-label": series.name }, draw("polyline", { points: line }));
  for (const p of points) group.append(whiskers(p, data, x, y, state));
  const marks = points.map((p, i) => pointMark(p, i, s, series, data, places, choose));
  marks.forEach((one, i) => one.addEventListener("keydown", (event) => walk(event, marks, i)));
  group.append(...marks);
  return group;
}

function walk(event, marks, i) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  const next = step && marks[i + step];
  if (!step) return;
  event.preventDefault();
  if (!next) return;
  marks[i].setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

function pointMark(p, i, s, series, data, places, choose) {
  const lines = () => pointLines(p, series, data);
  const group = draw("g", { class: `point${p.chosen ? " chosen" : ""}`, transform: `translate(${places.x(p)},${places.y(p)})`, tabindex: i ? "-1" : "0", role: "button", "aria-pressed": "false", "aria-label": lines().join(". "), "data-series": s, "data-mode": p.mode },
    draw("circle", { class: "hit", r: 14 }), draw("circle", { class: "halo", r: 12 }), mark(s, 6, { class: p.front ? "dot" : "dot hollow" }));
  group.addEventListener("click", () => choose(p));
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(p);
  });
  return withTip(group, lines);
}

/** What a tooltip says of a point. */
function pointLines(p, series, data) {
  const p99 = p.cost.p99 === null ? "" : `99th percentile ${digits(p.cost.p99, data.cost)} ${data.cost.shown}`;
  const part = [p.chosen ? "chosen by the search" : "", p.front ? "" : "not on the front"].filter(Boolean).join(", ");
  return [`${p.id} · mode ${p.mode}`, series.name + (part ? `: ${part}` : ""), readingText(p.accuracy, data.accuracy), provenance(p.accuracy), series.tested ? `on the search split, where it was chosen: ${readingText(p.search, data.accuracy)}` : "", readingText(p.cost, data.cost), p99, provenance(p.cost)];
}

function whiskers(p, data, x, y, state) {
  const cx = x(p.cost.value * data.cost.scale), cy = y(p.accuracy.value * data.accuracy.scale);
  const group = draw("g", { class: `whisker${p.cost.modelled || p.accuracy.modelled ? " modelled" : ""}`, "aria-hidden": "true" });
  const span = (reading, at, scale) => [reading.low, reading.high].map((v) => at((v ?? reading.value) * scale));
  if (p.accuracy.low !== null || p.accuracy.high !== null) {
    const [low, high] = span(p.accuracy, y, data.accuracy.scale);
    group.append(draw("path", { d: `M${cx},${low}V${high}M${cx - 3},${low}h6M${cx - 3},${high}h6` }));
  }
  if (p.cost.low !== null || p.cost.high !== null) {
    const [low, high] = span(p.cost, x, data.cost.scale);
    group.append(draw("path", { d: `M${low},${cy}H${high}M${low},${cy - 3}v6M${high},${cy - 3}v6` }));
  }
  if (state.at === "p99" && p.cost.p99 !== null) {
    const end = x(p.cost.p99 * data.cost.scale);
    group.append(draw("path", { class: "p99", d: `M${cx},${cy}H${end}` }), draw("circle", { class: "p99-end", cx: end, cy, r: 3 }));
  }
  return group;
}
