// Axes: round numbers for ticks, scales from figures to pixels, and the marks of a series.

/** A step of 1, 2 or 5 times a power of ten, at least `rough`. */
function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999999);
}

/** Domain and ticks that hold all values with a little room. */
function niceAxis(values, count, floor = -Infinity, ceiling = Infinity) {
  let low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  low = Math.max(floor, low - room);
  high = Math.min(ceiling, high + room);
  const step = roundStep((high - low) / count);
  // Ends on a fine grid: a slider under the axis has the same ends and whole steps between them.
  low = Number((Math.floor((low * 50) / step) * (step / 50)).toPrecision(12));
  high = Number((Math.ceil((high * 50) / step) * (step / 50)).toPrecision(12));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return { low, high, step, ticks };
}

function scaler(axis, from, to) {
  return (value) => from + ((value - axis.low) / (axis.high - axis.low)) * (to - from);
}

/** A tick's text with as many decimals as its step needs. */
function tickText(value, step) {
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

/** Grid lines, tick texts and the two labels of a chart. */
function axesOf(box, x, y, xLabel, yLabel) {
  const layer = draw("g", { class: "axes", "aria-hidden": "true" });
  for (const tick of y.axis.ticks) {
    layer.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    layer.append(draw("text", { x: box.left - 8, y: y(tick), dy: "0.32em", "text-anchor": "end" }, tickText(tick, y.axis.step)));
  }
  layer.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  for (const tick of x.axis.ticks) {
    layer.append(draw("line", { class: "axis", x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 5 }));
    layer.append(draw("text", { x: x(tick), y: box.bottom + 19, "text-anchor": "middle" }, tickText(tick, x.axis.step)));
  }
  layer.append(draw("text", { class: "label", x: box.right, y: box.bottom + 38, "text-anchor": "end" }, xLabel));
  layer.append(draw("text", { class: "label", x: 2, y: 14 }, yLabel));
  return layer;
}

const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
  (r) => `M${-0.9 * r},${-0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${0.85 * r}H${-1.15 * r}Z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-0.85 * r}H${-1.15 * r}Z`,
];

/** The mark of a series: colour and shape, so that it is never colour alone. */
function mark(series, radius, attributes = {}) {
  return draw("path", { d: SHAPES[series % SHAPES.length](radius), ...attributes });
}

function colourOf(series) {
  return `s${series % 6}`;
}

/** A series' mark as a small picture of its own, for legends and headings. */
function swatch(series) {
  return draw("svg", { class: `swatch ${colourOf(series)}`, viewBox: "-9 -9 18 18", width: 18, height: 18, "aria-hidden": "true" }, mark(series, 6, { class: "dot" }));
}
