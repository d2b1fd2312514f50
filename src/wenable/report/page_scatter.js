// Predicted costs against measured ones, with the diagonal on which they would agree.

/** Draw one verification: how well costs that were predicted agree with those measured. */
function drawScatter(verification) {
  const shown = verification.modes.filter((each) => each.measured.value !== null);
  const figure = make("figure", {}, make("figcaption", {}, agreement(verification), make("p", {}, verificationText(verification))));
  if (!shown.length) {
    figure.append(make("p", { class: "warning" }, "No mode of this verification was measured, so nothing is drawn."));
    return [figure, missingList(verification)];
  }
  const size = 380, box = { left: 52, right: size - 12, top: 30, bottom: size - 46 };
  const scale = verification.scale;
  const ends = shown.flatMap(({ predicted, measured: m }) => [predicted, m.value, m.low ?? m.value, m.high ?? m.value]).map((v) => v * scale);
  const axis = niceAxis(ends, 5, 0);
  const x = Object.assign(scaler(axis, box.left, box.right), { axis });
  const y = Object.assign(scaler(axis, box.bottom, box.top), { axis });
  const svg = draw("svg", { viewBox: `0 0 ${size} ${size}`, class: "scatter s0", role: "group", "aria-label": verificationText(verification) },
    axesOf(box, x, y, `measured (${verification.shown})`, `predicted (${verification.shown})`),
    draw("line", { class: "diagonal", x1: box.left, y1: box.bottom, x2: box.right, y2: box.top }));
  const marks = shown.map((each, i) => scatterMark(each, i, x, y, verification));
  marks.forEach((one, i) => one.addEventListener("keydown", (event) => walk(event, marks, i)));
  svg.append(...marks);
  figure.prepend(svg);
  return [figure, missingList(verification)];
}

function scatterMark({ mode, predicted, measured }, i, x, y, shown) {
  const at = y(predicted * shown.scale), scale = shown.scale;
  const lines = () => [`mode ${mode}`, `predicted ${digits(predicted, shown)} ${shown.shown} (modelled)`, `measured ${readingText(measured, shown)}`, provenance(measured)];
  const group = draw("g", { class: "point", tabindex: i ? "-1" : "0", role: "img", "aria-label": lines().join(". ") });
  if (measured.low !== null || measured.high !== null) {
    const [low, high] = [measured.low, measured.high].map((v) => x((v ?? measured.value) * scale));
    group.append(draw("path", { class: "whisker", d: `M${low},${at}H${high}` }));
  }
  const place = `translate(${x(measured.value * scale)},${at})`;
  group.append(draw("circle", { class: "hit", r: 10, transform: place }), draw("circle", { class: "halo", r: 9, transform: place }), mark(0, 4.5, { class: "dot", transform: place }));
  return withTip(group, lines);
}

function verificationText(v) {
  const where = [v.engine, v.device].filter(Boolean).join(", ");
  return `${v.modes.length} modes${where ? ` on ${where}` : ""}. Predictions are modelled; on the diagonal they are right. Whiskers are the intervals of the measurements.`;
}

/** The two figures that say how good the predictions are, where they are given. */
function agreement(v) {
  const pair = (name, text) => make("div", {}, make("span", { class: "name" }, name), make("span", { class: "big" }, text));
  return make("div", { class: "facts" },
    v.median_error === null ? null : pair("median error", `${(100 * v.median_error).toFixed(1)} %`),
    v.kendall_tau === null ? null : pair("Kendall tau of the order (1 is the same)", v.kendall_tau.toFixed(2)));
}

function missingList(v) {
  const missing = v.modes.filter((each) => each.measured.value === null);
  if (!missing.length) return "";
  return make("ul", { class: "note" }, ...missing.map((each) => make("li", {}, make("code", {}, each.mode), ` ${readingText(each.measured, v)}`)));
}
