// What would run at a budget: the most accurate mode of a front that fits it.

/** Pick a series' mode for a budget in shown units; of equally accurate ones the cheaper. */
function pick(series, budget, at, shown) {
  const fits = series.points.filter((p) => p.front && known(p) && costAt(p, at, shown) <= budget);
  return fits.reduce((best, p) => (best === null || better(p, best, at, shown) ? p : best), null);
}

function better(p, best, at, shown) {
  if (p.accuracy.value !== best.accuracy.value) return (p.accuracy.value > best.accuracy.value) !== Boolean(p.accuracy.lower_is_better);
  return costAt(p, at, shown) < costAt(best, at, shown);
}

function cheapest(series, at, shown) {
  return series.points.filter((p) => p.front && known(p))
    .reduce((best, p) => (best === null || costAt(p, at, shown) < costAt(best, at, shown) ? p : best), null);
}

/** The card that says what a series would run, with its strip; or that nothing fits. */
function runCard(data, series, s, state) {
  const point = pick(series, state.deadline, state.at, data.cost);
  const heading = make("h3", {}, swatch(s), series.name);
  if (point === null) {
    return { point, words: nothingFits(data, series, state), card: make("article", { class: `run none ${colourOf(s)}`, "data-series": s }, heading, make("p", { class: "warning" }, nothingFits(data, series, state))) };
  }
  const card = make("article", { class: `run ${colourOf(s)}`, "data-series": s }, heading,
    make("p", { class: "running" }, make("span", { class: "sr" }, "mode "), make("span", { class: "id" }, `${point.id} `), modeText(point.mode)),
    make("div", { class: "facts" }, fact(data.accuracy.name, point.accuracy, data.accuracy), fact(data.cost.name, point.cost, data.cost), percentileFact(point, data)),
    ...neighbourNotes(point, series).map((text) => make("p", { class: "note same" }, `≈ ${text}`)),
    state.at === "p99" && point.cost.p99 === null ? make("p", { class: "note" }, "It has no 99th percentile; its value was held against the budget.") : null,
    fullStrip(point, series), layerTable(point, series));
  return { point, card, words: `${series.name} runs ${point.mode}, ${readingText(point.accuracy, data.accuracy)}, ${readingText(point.cost, data.cost)}` };
}

function nothingFits(data, series, state) {
  const least = cheapest(series, state.at, data.cost);
  const unit = data.cost.shown;
  if (least === null) {
    const [first] = series.points;
    return `No mode can be placed: ${first ? readingText(first.cost, data.cost) : "the front is empty"}.`;
  }
  const cost = digits(costAt(least, state.at, data.cost) / data.cost.scale, data.cost);
  return `No mode fits ${budgetText(state.deadline)} ${unit}. The cheapest is ${least.mode}, at ${cost} ${unit}${least.cost.modelled ? " (modelled)" : ""}.`;
}

function fact(name, reading, shown) {
  const interval = intervalText(reading, shown);
  return make("div", {}, make("span", { class: "name" }, name),
    make("span", { class: "big" }, `${digits(reading.value, shown)} `, make("small", {}, shown.shown)),
    make("span", { class: "note" }, interval ? `${interval}${reading.interval ? `, ${reading.interval}` : ""}` : "no interval", " ", modelledBadge(reading) ?? ""));
}

function percentileFact(point, data) {
  if (point.cost.p99 === null) return null;
  return make("div", {}, make("span", { class: "name" }, "99th percentile"),
    make("span", { class: "big" }, `${digits(point.cost.p99, data.cost)} `, make("small", {}, data.cost.shown)),
    make("span", { class: "note" }, `${point.cost.count} samples `, modelledBadge(point.cost) ?? ""));
}

/** In what a point cannot be told apart from its neighbours on the front. */
function neighbourNotes(point, series) {
  const front = series.points.filter((p) => p.front);
  const i = front.indexOf(point);
  const [below, above] = [front[i - 1], front[i + 1]];
  return [
    below && sameAs(below, point, `the next cheaper mode, ${below.id}`),
    above && sameAs(point, above, `the next costlier mode, ${above.id}`),
  ].filter(Boolean);
}

function budgetText(value) {
  return String(Number(value.toPrecision(6)));
}
