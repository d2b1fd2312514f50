// The table of all figures, sortable, and the sources it refers to.

/** Number every distinct way a figure was got, in the order of the page. */
function numberSources(data) {
  const found = new Map();
  for (const series of data.series) {
    for (const point of [...series.points, ...series.explored]) {
      for (const reading of [point.accuracy, point.search, point.cost]) {
        const text = sourceText(reading);
        if (text && !found.has(text)) found.set(text, found.size + 1);
      }
    }
  }
  return found;
}

function sourceText(reading) {
  const parts = [reading.source, reading.device && `on ${reading.device}`, reading.interval && `interval: ${reading.interval}`, reading.note, reading.modelled ? "modelled" : ""];
  return parts.filter(Boolean).join("; ");
}

function sourceList(sources) {
  if (!sources.size) return [make("li", { class: "plain" }, "The readings say nothing about their sources.")];
  return [...sources].map(([text, n]) => make("li", { id: `source-${n}` }, text));
}

/** One row for each point; `order` is what a column sorts by. */
function tableRows(data, state) {
  return data.series.flatMap((series, s) => {
    if (state.hidden.has(s)) return [];
    return [...series.points, ...(state.explored ? series.explored : [])].map((point) => ({ series, s, point }));
  });
}

function tableColumns(data, state, sources) {
  const figure = (key, shown) => ({ title: `${shown.name}, ${shown.shown}`, order: (r) => r.point[key].value, cell: (r) => figureCell(r.point[key], shown, sources) });
  const many = data.series.length > 1;
  const tested = data.series.some((series) => series.tested);
  const p99 = data.series.some((series) => series.points.some((p) => p.cost.p99 !== null));
  return [
    many && { title: "series", order: (r) => r.series.name, cell: (r) => [swatch(r.s), r.series.name] },
    { title: "id", order: (r) => r.point.id, cell: (r) => [r.point.id || "–"] },
    { title: "mode", header: true, order: (r) => r.point.mode, cell: (r) => [modeText(r.point.mode)] },
    figure("accuracy", data.accuracy),
    tested && (state.search || state.explored) && figure("search", { ...data.accuracy, name: `${data.accuracy.merit}, search split, chosen on it` }),
    figure("cost", data.cost),
    p99 && { title: `99th percentile, ${data.cost.shown}`, number: true, order: (r) => r.point.cost.p99, cell: (r) => [r.point.cost.p99 === null ? "–" : digits(r.point.cost.p99, data.cost)] },
    { title: "remarks", order: (r) => remarks(r).join("; "), cell: (r) => remarks(r).flatMap((text, i) => (i ? [make("br"), text] : [text])) },
  ].filter(Boolean);
}

function figureCell(reading, shown, sources) {
  if (reading.value === null) return [make("span", { class: "missing" }, `not measured: ${reading.reason}`)];
  const n = sources.get(sourceText(reading));
  const link = n ? make("sup", {}, make("a", { href: `#source-${n}`, "aria-label": `source ${n}` }, n)) : "";
  const behind = [intervalText(reading, shown) || "no interval", reading.count ? `${reading.count} samples` : ""].filter(Boolean);
  return [digits(reading.value, shown), link, modelledBadge(reading) ?? "", make("div", { class: "note" }, behind.join(" · "))];
}

function remarks({ point, series }) {
  const parts = [point.chosen ? "chosen by the search" : "", point.front ? "" : "not on the front"].filter(Boolean);
  const front = series.points.filter((p) => p.front);
  const next = front[front.indexOf(point) + 1];
  const same = point.front && next ? sameAs(point, next, "the next costlier mode") : "";
  return same ? [...parts, same] : parts;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}

/** Fill the table; a click on a heading sorts by it, and back. */
function fillTable(table, data, state, sources, sort, resort) {
  const columns = tableColumns(data, state, sources);
  const rows = tableRows(data, state);
  if (sort.column !== null) rows.sort((a, b) => sort.way * compare(columns[sort.column].order(a), columns[sort.column].order(b)));
  const heads = columns.map((column, i) => make("th", { scope: "col", "aria-sort": sort.column !== i ? "none" : sort.way > 0 ? "ascending" : "descending" },
    make("button", { type: "button", on: { click: () => resort(i) } }, column.title)));
  const body = rows.map((row) => make("tr", { "data-series": row.s, "data-mode": row.point.mode, class: `${colourOf(row.s)}${row.point.front ? "" : " off"}` },
    ...columns.map((column) => make(column.header ? "th" : "td", { scope: column.header ? "row" : null, class: column.number ? "number" : "" }, ...column.cell(row)))));
  table.replaceChildren(make("caption", { class: "sr" }, "All figures; the headings sort"), make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
}
