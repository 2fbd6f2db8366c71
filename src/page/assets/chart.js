// Curves over time, as SVG. What a curve shows stands in its legend as a number, too.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 58;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;

function svg(name, attributes, parent, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

/// Draws into `figure`, each time anew.
///
/// chart: title, times (ms), lines [{ name, style, values }], say (value to text), and where
/// wanted: tick (as say, beside the axis), height, least and most (of the axis), whole (no fractions
/// on it), log (a logarithmic one), step (no slopes), rule { value, name } (a line across), band
/// { low, high } (the area between), legend (also of a lone curve).
export function draw(figure, chart) {
  if (!figure.firstChild) {
    figure.append(document.createElement("figcaption"));
    svg("svg", { role: "img" }, figure);
    const legend = document.createElement("ul");
    legend.className = "legend";
    figure.append(legend);
  }
  const [caption, picture, legend] = figure.children;
  if (caption.textContent !== chart.title) caption.textContent = chart.title;
  const now = (line) => {
    const value = line.values.at(-1);
    return value === null || value === undefined ? "–" : chart.say(value);
  };
  legend.replaceChildren(...(chart.lines.length > 1 || chart.rule || chart.legend
    ? chart.lines.map((line) => entry(line, now(line))) : []));
  const told = chart.lines.map((line) => `${line.name} ${now(line)}`);
  if (chart.rule) told.push(`${chart.rule.name} ${chart.say(chart.rule.value)}`);
  picture.setAttribute("aria-label", `${chart.title}. Now: ${told.join(", ") || "nothing"}.`);
  const height = chart.height ?? 190;
  const width = Math.max(picture.clientWidth, 200);
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.style.height = `${height}px`;
  picture.replaceChildren();
  fill(picture, chart, width, height);
}

function entry(line, now) {
  const item = document.createElement("li");
  const swatch = svg("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" }, item);
  svg("line", { x1: 0, y1: 5, x2: 30, y2: 5, class: `curve ${line.style}` }, swatch);
  const text = document.createElement("span");
  text.textContent = `${line.name} ${now}`;
  item.append(text);
  return item;
}

function fill(picture, chart, width, height) {
  const { times, lines, rule, band } = chart;
  const finite = (values) => values.filter((value) => value !== null && (!chart.log || value > 0));
  const values = lines.flatMap((line) => finite(line.values)).concat(band ? finite(band.high) : []);
  if (values.length === 0) {
    svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, picture, "nothing yet");
    return;
  }
  const all = rule ? values.concat(rule.value) : values;
  const axis = chart.log ? logarithmic(all) : linear(all, chart);
  const y = (value) => TOP + (1 - axis.at(value)) * (height - TOP - BOTTOM);
  const end = times.at(-1);
  const span = Math.min(Math.max(end - times[0], 60e3), 600e3);
  const x = (time) => width - RIGHT - ((end - time) / span) * (width - LEFT - RIGHT);
  for (const tick of axis.ticks) {
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }, picture);
    const place = { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" };
    svg("text", place, picture, (chart.tick ?? chart.say)(tick));
  }
  const step = [15, 30, 60, 120].find((step) => span / 1000 / step <= (width < 400 ? 3 : 5)) ?? 120;
  for (let ago = 0; ago * 1000 <= span; ago += step) {
    const text = ago === 0 ? "now" : ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`;
    const anchor = ago === 0 ? "end" : ago * 1000 === span ? "start" : "middle";
    const place = { x: x(end - ago * 1000), y: height - 6, "text-anchor": anchor };
    svg("text", place, picture, text);
  }
  if (band) area(picture, band, times, x, y);
  for (const line of lines) {
    const path = curve(line.values, times, x, y, chart);
    if (path) svg("path", { d: path, class: `curve ${line.style}` }, picture);
  }
  if (rule) {
    const group = svg("g", { class: "rule" }, picture);
    const at = y(rule.value);
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: at, y2: at }, group);
    const above = at > TOP + 16;
    const place = { x: LEFT + 6, y: above ? at - 5 : at + 15 };
    svg("text", place, group, `${rule.name} ${chart.say(rule.value)}`);
  }
}

/// Where a value is missing the pen is lifted. A value between two that are missing is a dot.
function curve(values, times, x, y, { log, step }) {
  let path = "";
  let down = false;
  values.forEach((value, at) => {
    if (value === null || (log && value <= 0)) {
      down = false;
      return;
    }
    const [across, up] = [x(times[at]).toFixed(1), y(value).toFixed(1)];
    if (!down) path += `M${across} ${up}h.1`;
    else path += step ? `H${across}V${up}` : `L${across} ${up}`;
    down = true;
  });
  return path;
}

function area(picture, { low, high }, times, x, y) {
  const places = high.map((value, at) => at).filter((at) => high[at] !== null);
  if (places.length === 0) return;
  const edge = (values, places) =>
    places.map((at) => `${x(times[at]).toFixed(1)} ${y(values[at]).toFixed(1)}`).join("L");
  const path = `M${edge(high, places)}L${edge(low, places.toReversed())}Z`;
  svg("path", { d: path, class: "band" }, picture);
}

function linear(values, { least = 0, most, whole }) {
  const top = most ?? Math.max(...values, least + 1e-9);
  const rough = Math.max((top - least) / 4, whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((step) => step >= rough);
  const end = most ?? least + Math.ceil((top - least) / step - 1e-9) * step;
  const ticks = [];
  for (let tick = least; tick <= end + step / 1e6; tick += step) ticks.push(tick);
  return { ticks, at: (value) => Math.min(Math.max((value - least) / (end - least), 0), 1) };
}

function logarithmic(values) {
  const [least, most] = [Math.min(...values) / 1.3, Math.max(...values) * 1.5];
  const from = Math.log10(least);
  const span = Math.log10(most) - from;
  const ticks = [];
  for (let power = Math.floor(from); power <= from + span; power += 1) {
    for (const part of span < 1.2 ? [1, 2, 5] : span < 2.5 ? [1, 3] : [1]) {
      const tick = part * 10 ** power;
      if (tick >= least && tick <= most) ticks.push(tick);
    }
  }
  return { ticks, at: (value) => (Math.log10(value) - from) / span };
}
