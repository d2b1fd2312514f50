// Words and elements: how figures are written, and how an element is made from plain text.
// Data reaches the page through textContent and setAttribute only.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element; a text child is text, whatever it looks like. */
function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** A figure in the unit it is shown in, without the unit. */
function digits(value, shown) {
  const scaled = value * shown.scale;
  if (shown.decimals !== null) return scaled.toFixed(shown.decimals);
  if (Math.abs(scaled) >= 100) return scaled.toFixed(0);
  return Math.abs(scaled) >= 0.001 ? scaled.toPrecision(3) : String(Number(scaled.toPrecision(3)));
}

/** A mode's text that a line may break after any comma of. */
function modeText(mode) {
  const parts = mode.split(",");
  return make("code", {}, ...parts.flatMap((part, i) => (i < parts.length - 1 ? [`${part},`, make("wbr")] : [part])));
}

/** A reading with its unit and what is known of its interval; a missing one with its reason. */
function readingText(reading, shown) {
  if (reading.value === null) return `not measured: ${reading.reason}`;
  const interval = intervalText(reading, shown);
  const tail = interval ? ` (${interval})` : "";
  return `${digits(reading.value, shown)} ${shown.shown}${tail}${reading.modelled ? ", modelled" : ""}`;
}

/** `96.6 to 99.1`, or nothing where there is no interval. */
function intervalText(reading, shown) {
  if (reading.low === null && reading.high === null) return "";
  const end = (value) => (value === null ? "?" : digits(value, shown));
  return `${end(reading.low)} to ${end(reading.high)}`;
}

/** What stands behind a reading: interval, samples, source, device, note. */
function provenance(reading) {
  const samples = reading.count ? `${reading.count} samples` : "";
  return [reading.interval, samples, reading.source, reading.device, reading.note].filter(Boolean).join(" · ");
}

function patternText(n) {
  return n === 1 ? "1" : `1/${n}`;
}

/** A small label such as `modelled`. */
function badge(text) {
  return make("span", { class: "badge" }, text);
}

function modelledBadge(...readings) {
  return readings.some((reading) => reading.modelled) ? badge("modelled") : null;
}

/** Whether two readings' intervals overlap; null where an interval is missing. */
function overlaps(a, b) {
  if ([a.low, a.high, b.low, b.high].includes(null)) return a.value === b.value ? true : null;
  return a.low <= b.high && b.low <= a.high;
}

/** Say in what a point and the next costlier one cannot be told apart; `words` names the other. */
function sameAs(cheaper, costlier, words) {
  const same = new Map();
  if (cheaper.next?.alike) same.set("accuracy", cheaper.next.how);
  if (cheaper.cost.value !== null && costlier.cost.value !== null && overlaps(cheaper.cost, costlier.cost)) same.set("cost", "intervals");
  const how = [...same].map(([figure, way]) => (same.size > 1 ? `${figure}: ${way}` : way)).join("; ");
  return same.size ? `${[...same.keys()].join(" and ")} cannot be told apart from ${words} (${how})` : "";
}

const tip = document.getElementById("tip");

/** Show lines of text beside an element on hover and on focus; the first line is set bold. */
function withTip(element, lines) {
  const show = () => {
    tip.replaceChildren(...lines().filter(Boolean).map((line, i) => make("div", { class: i ? "" : "strong" }, line)));
    tip.hidden = false;
    placeTip(element.getBoundingClientRect());
  };
  for (const event of ["pointerenter", "focus"]) element.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) element.addEventListener(event, hideTip);
  return element;
}

function hideTip() {
  tip.hidden = true;
}

function placeTip(box) {
  const gap = 10, width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
  const above = box.top - height - gap;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : box.bottom + gap}px`;
}
