// The page: what is set on it, where that is kept (in the address), and what follows from it.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const state = { deadline: null, at: "value", hidden: new Set(), view: "front", explored: false, search: data.search_split, theme: "" };
const sources = numberSources(data);
const sort = { column: null, way: 1 };
let chart = null;
let announcing = 0;

/** Read what is set from the address: `#deadline=3.2&at=p99&hide=1&view=all&theme=dark`. */
function readAddress() {
  const set = new URLSearchParams(location.hash.slice(1));
  const deadline = Number.parseFloat(set.get("deadline"));
  if (Number.isFinite(deadline) && deadline >= 0) state.deadline = deadline;
  if (set.get("at") === "p99" && anyPercentile()) state.at = "p99";
  if (set.get("view") === "all") state.view = "all";
  if (set.has("search")) state.search = set.get("search") === "1";
  if (["dark", "light"].includes(set.get("theme"))) state.theme = set.get("theme");
  if (set.has("hide")) state.hidden = new Set(set.get("hide").split(",").map(Number).filter((s) => s in data.series));
}

function writeAddress() {
  const set = new URLSearchParams();
  set.set("deadline", budgetText(state.deadline));
  if (state.at === "p99") set.set("at", "p99");
  if (state.view === "all") set.set("view", "all");
  if (state.hidden.size) set.set("hide", [...state.hidden].join(","));
  if (state.search !== data.search_split) set.set("search", state.search ? "1" : "0");
  if (state.theme) set.set("theme", state.theme);
  try {
    history.replaceState(null, "", `#${set}`);
  } catch {
    // A page inside another may not change its address; everything else works.
  }
}

function anyPercentile() {
  return data.series.some((series) => series.points.some((p) => p.cost.p99 !== null));
}

/** The least budget of four digits that still holds the cost. */
function budgetFor(cost) {
  if (!cost) return 0;
  const unit = 10 ** (Math.floor(Math.log10(cost)) - 3);
  const up = Number((Math.ceil(cost / unit - 1e-9) * unit).toPrecision(4));
  return up >= cost ? up : Number((up + unit).toPrecision(4));
}

function firstBudget() {
  const points = data.series.flatMap((series) => series.points.filter((p) => known(p) && p.front));
  const costs = points.map((p) => costAt(p, state.at, data.cost)).sort((a, b) => a - b);
  return costs.length ? budgetFor(costs[Math.floor((costs.length - 1) / 2)]) : 0;
}

function chooseBudget(point) {
  setBudget(budgetFor(costAt(point, state.at, data.cost)), null);
}

/** Set the budget; `from` is the input that it came from, which is left as it is. */
function setBudget(value, from) {
  state.deadline = value;
  if (from !== byId("budget")) byId("budget").value = budgetText(value);
  if (from !== byId("slider")) byId("slider").value = value;
  byId("slider").setAttribute("aria-valuetext", `${budgetText(value)} ${data.cost.shown}`);
  showRuns();
  writeAddress();
}

function showRuns() {
  const opened = new Set([...document.querySelectorAll(".run details[open]")].map((one) => one.closest(".run").dataset.series));
  const runs = data.series.map((series, s) => (state.hidden.has(s) ? null : { s, ...runCard(data, series, s, state) })).filter(Boolean);
  byId("runs").replaceChildren(...runs.map((run) => run.card));
  for (const run of runs) if (opened.has(String(run.s))) run.card.querySelector("details")?.setAttribute("open", "");
  const chosen = new Set(runs.filter((run) => run.point).map((run) => `${run.s} ${run.point.mode}`));
  chart?.show(state.deadline, chosen);
  for (const row of document.querySelectorAll(".matrix li, #table tbody tr")) {
    const on = chosen.has(`${row.dataset.series} ${row.dataset.mode}`);
    row.classList.toggle("runs", on);
    if (on) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  clearTimeout(announcing);
  const figure = state.at === "p99" ? "99th percentile" : "value";
  announcing = setTimeout(() => {
    byId("announce").textContent = `Budget ${budgetText(state.deadline)} ${data.cost.shown}, ${figure}: ${runs.map((run) => run.words).join(". ")}`;
  }, 300);
}

/** Draw everything that depends on the width, the view or the series shown. */
function redraw() {
  const focused = document.activeElement?.closest?.("#chart .point");
  chart = drawChart(byId("chart"), data, state, chooseBudget);
  hideTip();
  if (chart) fitSlider(chart);
  byId("deadline-panel").hidden = chart === null;
  byId("chart-note").textContent = chartNote();
  if (focused) [...document.querySelectorAll("#chart .point")].find((p) => p.dataset.series === focused.dataset.series && p.dataset.mode === focused.dataset.mode)?.focus();
  showRuns();
}

/** Lay the slider under the axis, so that its thumb stands under the line in the chart. */
function fitSlider({ box, axis }) {
  const slider = byId("slider"), thumb = 22;
  slider.style.marginLeft = `${box.left - thumb / 2}px`;
  slider.style.width = `${box.right - box.left + thumb}px`;
  const step = Number((axis.step / 50).toPrecision(3));
  Object.assign(slider, { min: axis.low, max: axis.high, step });
  slider.value = state.deadline;
  Object.assign(byId("budget"), { min: 0, step });
}

function chartNote() {
  const notes = ["Whiskers are the intervals of the readings; what they are stands with each figure. Choose a point to set the budget to its cost."];
  const missing = data.series.flatMap((series, s) => (state.hidden.has(s) ? [] : series.points.filter((p) => !known(p))));
  if (missing.length) {
    const gap = missing[0].cost.value === null ? missing[0].cost : missing[0].accuracy;
    notes.push(`${missing.length} of the points are not drawn: ${gap.reason}.`);
  }
  if (data.series.some((series, s) => series.tested && series.explored.length && !state.hidden.has(s))) notes.push("The faint dots were only explored: their accuracy is that on the search split.");
  if (chart?.outside) notes.push(`${chart.outside} explored modes lie outside this view.`);
  return notes.join(" ");
}

function showAll() {
  byId("strips").replaceChildren(...stripRows(data, (s) => !state.hidden.has(s), chooseBudget));
  showTable();
  redraw();
}

function showTable() {
  fillTable(byId("table"), data, state, sources, sort, (column) => {
    Object.assign(sort, { column, way: sort.column === column ? -sort.way : 1 });
    showTable();
    showRuns();
    byId("table").querySelectorAll("thead button")[column].focus();
  });
}

function fillLegend() {
  const toggle = (s, on) => {
    if (on) state.hidden.delete(s);
    else state.hidden.add(s);
    showAll();
    writeAddress();
  };
  byId("legend").replaceChildren(...data.series.map((series, s) => make("label", {},
    make("input", { type: "checkbox", checked: !state.hidden.has(s), on: { change: (event) => toggle(s, event.target.checked) } }), swatch(s), series.name)));
  const explored = data.series.reduce((sum, series) => sum + series.explored.length, 0);
  if (explored) byId("legend").append(make("span", { class: "pair note" }, make("span", { class: "speck", "aria-hidden": "true" }), `${explored} explored modes behind`));
}

/** A row of radio buttons that look like one control. */
function choices(name, options, current, pickOne) {
  return make("span", { class: "segments" }, ...options.map(([value, text, disabled]) => make("label", {},
    make("input", { type: "radio", name, value, checked: value === current, disabled: Boolean(disabled), on: { change: () => pickOne(value) } }), make("span", {}, text))));
}

function fillControls() {
  const views = choices("view", [["front", "The front"], ["all", "All explored"]], state.view, (view) => { state.view = view; redraw(); writeAddress(); });
  const explored = data.series.some((series) => series.explored.length);
  byId("view").replaceChildren(...(explored ? [views] : []));
  const central = data.cost.unit === "MACs" ? "Count" : "Median";
  byId("percentile").append(choices("at", [["value", central], ["p99", "99th percentile", !anyPercentile()]], state.at, (at) => { state.at = at; redraw(); writeAddress(); }));
  byId("percentile").hidden = !anyPercentile();
  byId("budget-unit").textContent = data.cost.shown;
  const check = (id, key, words) => make("label", {}, make("input", { type: "checkbox", id, checked: state[key], on: { change: (event) => { state[key] = event.target.checked; sort.column = null; showTable(); showRuns(); writeAddress(); } } }), words);
  if (data.series.some((series) => series.tested)) byId("table-controls").append(check("with-search", "search", "search split beside"));
  if (explored) byId("table-controls").append(check("with-explored", "explored", "explored modes too"));
}

function showTheme() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${dark ? "light" : "dark"} colours`);
}

function listen() {
  for (const id of ["slider", "budget"]) {
    byId(id).addEventListener("input", (event) => {
      const value = Number.parseFloat(event.target.value);
      if (Number.isFinite(value) && value >= 0) setBudget(value, event.target);
    });
  }
  byId("theme").addEventListener("click", () => {
    state.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    showTheme();
    writeAddress();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { readAddress(); start(); } });
}

function summary() {
  const evaluated = data.series.reduce((sum, series) => sum + series.evaluations, 0);
  const points = data.series.reduce((sum, series) => sum + series.points.filter((p) => p.front).length, 0);
  const layers = [...new Set(data.series.map((series) => series.knobs.length))].join(" or ");
  return `${points} modes worth having of ${evaluated} evaluated, by ${data.cost.name} (${data.cost.shown}); ${layers} layers that switch.`;
}

function start() {
  state.deadline ??= firstBudget();
  showTheme();
  fillLegend();
  showAll();
  setBudget(state.deadline, null);
}

readAddress();
byId("summary").textContent = summary();
byId("sources").replaceChildren(...sourceList(sources));
byId("scatter-section").hidden = !data.predictions.length;
byId("scatter").replaceChildren(...data.predictions.flatMap(drawScatter));
fillControls();
start();
listen();
