// A mode as a strip: one bar for each layer, as high and as dark as the share that is enabled.

/** 0 for the full pattern to 4 for the finest: a step of height and colour. */
function level(option, finest) {
  return finest === 1 ? 0 : Math.round((4 * Math.log2(option)) / Math.log2(finest));
}

/** A bar; `words` adds the pattern beneath it. */
function bar(knob, option, pattern, finest, words) {
  const text = `${knob}: ${pattern}`;
  const parts = [make("span", { class: `bar l${level(option, finest)}`, "aria-hidden": "true" })];
  if (words) parts.push(make("span", { class: "pattern", "aria-hidden": "true" }, pattern), make("span", { class: "sr" }, text));
  return withTip(make(words ? "li" : "span", { class: "cell" }, ...parts), () => [knob, `pattern ${pattern}`]);
}

/** The strip of one mode with every pattern in words: a list that can be read aloud. */
function fullStrip(point, series) {
  return make("ol", { class: "strip words", "aria-label": `patterns of ${series.knobs.length} layers` },
    ...point.options.map((option, i) => bar(series.knobs[i], option, point.texts[i], series.finest, true)));
}

/** The strip of one mode as one picture with a summary. */
function smallStrip(point, series) {
  return make("span", { class: "strip small", role: "img", "aria-label": countsText(point) },
    ...point.options.map((option, i) => bar(series.knobs[i], option, point.texts[i], series.finest, false)));
}

/** `12 layers at 1, 8 at 1/4`. */
function countsText(point) {
  const counts = new Map();
  const order = point.options.map((option, i) => [option, point.texts[i]]).sort(([a], [b]) => a - b);
  for (const [, text] of order) counts.set(text, (counts.get(text) || 0) + 1);
  return [...counts].map(([text, count], i) => `${count}${i ? "" : " layers"} at ${text}`).join(", ");
}

/** Every layer's name and pattern in a table that opens. */
function layerTable(point, series) {
  const rows = point.texts.map((text, i) => make("tr", {}, make("th", { scope: "row" }, series.knobs[i]), make("td", {}, text)));
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), make("th", { scope: "col" }, "pattern"));
  return make("details", {}, make("summary", {}, `The ${rows.length} layers by name`),
    make("table", { class: "layers" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

/** What the bars mean: the options that occur, with their bar. Labelled ones tell it themselves. */
function stripKey(every) {
  const series = every.filter((one) => !one.labelled);
  if (!series.length) return null;
  const options = [...new Set(series.flatMap((one) => [1, one.finest, ...one.points.flatMap((p) => p.options)]))];
  const finest = Math.max(...series.map((one) => one.finest));
  return make("div", { class: "key" }, make("span", {}, "Share of a layer's weights that is enabled:"),
    ...options.sort((a, b) => a - b).map((n) => make("span", { class: "pair" },
      make("span", { class: "cell" }, make("span", { class: `bar l${level(n, finest)}`, "aria-hidden": "true" })), patternText(n))));
}

/** All modes of all shown series, one strip under the other; a row's button sets the budget. */
function stripRows(data, shown, choose) {
  const blocks = data.series.map((series, s) => {
    const rows = series.points.map((point) => {
      const name = make("button", { type: "button", class: "mode", "aria-label": `${point.mode}: set the budget to its cost`, disabled: point.cost.value === null, on: { click: () => choose(point) } }, make("span", { class: "id" }, point.id), ` ${point.mode}`);
      const figures = make("span", { class: "figures" }, `${shownValue(point.accuracy, data.accuracy)} · ${shownValue(point.cost, data.cost)}`);
      return make("li", { "data-series": s, "data-mode": point.mode }, name, smallStrip(point, series), figures);
    });
    return make("div", { class: colourOf(s), hidden: !shown(s) }, make("h3", {}, swatch(s), series.name), make("ol", { class: "matrix" }, ...rows));
  });
  return [stripKey(data.series), ...blocks].filter(Boolean);
}

function shownValue(reading, shown) {
  if (reading.value === null) return "not measured";
  return `${digits(reading.value, shown)} ${shown.shown}${reading.modelled ? " (modelled)" : ""}`;
}
