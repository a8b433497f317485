// Plots as SVG: line charts, small ones for many side by side, a stacked bar, a meter. The manner is that of the report's
// pictures (cli/src/plot): the same sizes, colours and classes. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const LETTERS = 12;
const LETTER = 0.63; // mean width of a letter, as a share of the font's size
const NAME_WIDTH = 110;
const NAME_DISTANCE = 14;
const THOUSANDS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SIXTIETHS = [0.5, 1, 2, 5, 10, 15, 20, 30];
const HOURS = [0.25, 0.5, 1, 2, 3, 6, 12];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const widthOf = (text) => [...text].length * LETTERS * LETTER;
const cut = (text, width) => {
  if (widthOf(text) <= width) return text;
  return [...text].slice(0, Math.max(1, Math.floor(width / (LETTERS * LETTER))) - 1).join("") + "…";
};

/// Spaces between groups of three digits before the point.
export const grouped = (text) => {
  const [whole, ...rest] = String(text).split(".");
  return [whole.replace(/\B(?=(\d{3})+$)/g, "\u00a0"), ...rest].join(".");
};

/// A number in three digits or so: `0`, `7.25`, `812`, `60.1 k`.
export const short = (number) => {
  if (!isNumber(number)) return "–";
  const [size, letter] = Math.abs(number) < 10_000 ? [1, ""] : THOUSANDS.find(([size]) => Math.abs(number) >= size);
  const scaled = number / size;
  const greatness = Math.abs(scaled);
  const decimals = greatness < 1e-9 ? 0 : greatness < 0.1 ? 4 : greatness < 1 ? 3 : greatness < 10 ? 2 : greatness < 100 ? 1 : 0;
  const text = scaled.toFixed(decimals);
  const trimmed = text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
  return letter === "" ? grouped(trimmed) : `${trimmed}\u00a0${letter}`;
};

// ---- ticks ---------------------------------------------------------------------------------------------------------

// What a unit of the axis is in the scale's own, and its name.
const unitOf = (scale, to) => {
  if (scale === "share") return [0.01, "%"];
  if (scale !== "seconds") return [1, ""];
  if (to <= 180) return [1, "s"];
  if (to <= 3 * 3600) return [60, "min"];
  return to <= 72 * 3600 ? [3600, "h"] : [86_400, "days"];
};

// The smallest round step that needs no more than so many ticks.
const stepOf = (unit, span, atMost) => {
  const least = Math.max(span, 1e-12) / (Math.max(atMost, 2) - 1);
  const fits = (step) => step >= least * (1 - 1e-9);
  const ofClock = unit === "s" || unit === "min" ? SIXTIETHS : unit === "h" ? HOURS : [];
  const known = least > 0.4 ? ofClock.find(fits) : undefined;
  if (known !== undefined) return known;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((digit) => digit * power).find(fits) ?? 10 * power;
};

const decimal = (value, step) => {
  let decimals = 0;
  while (decimals < 9 && Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6 * Math.max(step * 10 ** decimals, 1e-300)) decimals += 1;
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? "0" : grouped(text);
};

const ticksOf = (scale, [from, to], step) => {
  const [factor, unit] = unitOf(scale, to);
  const first = Math.ceil(from / factor / step - 1e-9);
  const count = Math.min(40, Math.max(0, Math.floor(to / factor / step + 1e-9) - first));
  const greatest = Math.max(Math.abs(from), Math.abs(to)) / factor;
  const [size, letter] = scale !== "number" || greatest < 10_000 ? [1, ""] : THOUSANDS.find(([size]) => greatest >= size);
  const at = Array.from({ length: count + 1 }, (_, index) => {
    const value = (first + index) * step;
    const text = decimal(value / size, step / size);
    return [value * factor, letter === "" || text === "0" ? text : `${text} ${letter}`];
  });
  return { at, unit };
};

// ---- line charts ---------------------------------------------------------------------------------------------------

const rangeOf = (values, from, to) => {
  let least = from ?? Infinity;
  let most = to ?? -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  if (most - least > 1e-9 * Math.max(Math.abs(most), 1e-3)) return [least, most];
  return least === 0 ? [0, 1] : [least - Math.abs(least) * 0.5, least + Math.abs(least) * 0.5];
};

const element = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const round = (number) => Math.round(number * 10) / 10;
const words = (content, at, anchor, text, kind = "") => {
  const made = element("text", { class: kind, x: round(at[0]), y: round(at[1]), "text-anchor": anchor }, text);
  content.push(made);
  return made;
};
const line = (content, kind, from, to) => content.push(element("line", { class: kind, x1: round(from[0]), y1: round(from[1]), x2: round(to[0]), y2: round(to[1]) }));
const pathOf = (points, closed) => points.map(([x, y], index) => `${index === 0 ? "M" : "L"}${round(x)} ${round(y)}`).join("") + (closed ? "Z" : "");

/// The points of a curve of the document over its seconds; where there is no number there is no point.
export const points = (seconds, curve) => {
  const found = [];
  curve.mean.forEach((mean, index) => {
    if (isNumber(mean)) found.push({ x: seconds[index], low: curve.low[index] ?? mean, mean, high: curve.high[index] ?? mean });
  });
  return found;
};

// Names at the ends of curves, moved apart where curves end close to each other.
const spread = (wanted, top, bottom) => {
  const places = [...wanted];
  let least = top;
  for (let index = 0; index < places.length; index += 1) {
    places[index] = Math.max(places[index], least);
    least = places[index] + NAME_DISTANCE;
  }
  let most = bottom;
  for (let index = places.length - 1; index >= 0; index -= 1) {
    places[index] = Math.min(places[index], most);
    most = places[index] - NAME_DISTANCE;
  }
  return places;
};

const frameOf = (chart, [width, height], lines) => {
  const all = lines.flatMap((one) => one.points);
  const [xCount, yCount] = chart.small ? [3, 4] : [6, 6];
  const x = rangeOf(all.map((point) => point.x), 0, chart.to);
  const yRange = rangeOf(all.flatMap((point) => [point.low, point.high]), chart.from, chart.most);
  const [factor, unit] = unitOf(chart.y, yRange[1]);
  const step = stepOf(unit, (yRange[1] - yRange[0]) / factor, yCount);
  const whole = step * factor;
  const y = [Math.floor(yRange[0] / whole + 1e-9) * whole, Math.ceil(yRange[1] / whole - 1e-9) * whole];
  const yTicks = ticksOf(chart.y, y, step);
  const [xFactor, xUnit] = unitOf("seconds", x[1]);
  const xTicks = ticksOf("seconds", x, stepOf(xUnit, (x[1] - x[0]) / xFactor, xCount));
  const labels = Math.max(20, ...yTicks.at.map(([, text]) => widthOf(text)));
  const names = !chart.small && lines.length > 1 ? Math.max(16, ...lines.map((one) => Math.min(widthOf(one.name), NAME_WIDTH) + 8)) : 16;
  const top = chart.small ? 8 : chart.marks?.length > 0 ? 42 : 26;
  const frame = { left: labels + 8, right: width - names, top, bottom: height - (chart.small ? 18 : 38), x, y, xTicks, yTicks };
  frame.place = (a, b) => [
    frame.left + ((a - x[0]) / (x[1] - x[0])) * (frame.right - frame.left),
    frame.bottom - ((b - y[0]) / (y[1] - y[0])) * (frame.bottom - frame.top),
  ];
  return frame;
};

const axes = (content, chart, frame, width) => {
  for (const [value, text] of frame.yTicks.at) {
    const [, y] = frame.place(frame.x[0], value);
    line(content, "grid", [frame.left, y], [frame.right, y]);
    words(content, [frame.left - 6, y + 4], "end", text);
  }
  line(content, "axis", [frame.left, frame.bottom], [frame.right, frame.bottom]);
  frame.xTicks.at.forEach(([value, text], index) => {
    const [x] = frame.place(value, frame.y[0]);
    line(content, "axis", [x, frame.bottom], [x, frame.bottom + 4]);
    const whole = chart.small && index === frame.xTicks.at.length - 1 ? `${text} ${frame.xTicks.unit}` : text;
    words(content, [Math.min(x, width - widthOf(whole) / 2), frame.bottom + 16], "middle", whole);
  });
  if (chart.small) return;
  frame.name = frame.yTicks.unit === "" ? chart.name : `${chart.name}, ${frame.yTicks.unit}`;
  frame.nameText = words(content, [0, 12], "start", frame.name, "name");
  words(content, [frame.right, frame.bottom + 33], "end", `training time, ${frame.xTicks.unit}`);
};

const marks = (content, chart, frame) => {
  let freeFrom = -Infinity;
  for (const { x: at, name } of chart.marks ?? []) {
    const [x] = frame.place(at, frame.y[0]);
    if (x < frame.left || x > frame.right) continue;
    line(content, "mark", [x, frame.top - 2], [x, frame.bottom]);
    const width = widthOf(name);
    const start = Math.min(x - width / 2, frame.right - width);
    if (!chart.small && start > freeFrom + 6 && start > frame.left) {
      words(content, [start, frame.top - 4], "start", name);
      freeFrom = start + width;
    }
  }
};

const curve = (content, { points: all, colour, stroke }, frame, small) => {
  if (all.some((point) => point.low < point.high)) {
    const upper = all.map((point) => frame.place(point.x, point.high));
    const lower = all.map((point) => frame.place(point.x, point.low)).reverse();
    content.push(element("path", { class: `band f${colour}`, d: pathOf([...upper, ...lower], true) }));
  }
  if (all.length > 1) {
    const kind = `curve s${colour}${stroke === "dashed" ? " dashed" : ""}${small ? " fine" : ""}`;
    content.push(element("path", { class: kind, d: pathOf(all.map((point) => frame.place(point.x, point.mean)), false) }));
  }
  if (stroke === "dots" || all.length === 1) {
    for (const point of all) {
      const [x, y] = frame.place(point.x, point.mean);
      content.push(element("circle", { class: `f${colour}`, cx: round(x), cy: round(y), r: all.length > 40 ? 1.5 : 2.8 }));
    }
  }
};

// ---- what the pointer is at ----------------------------------------------------------------------------------------

// Per picture: where the pointer is, in the picture's units, and what is drawn there.
const LOOKS = new WeakMap();

const written = (scale, value) => (scale === "share" ? `${(value * 100).toFixed(1)} %` : short(value));

// Names the values nearest to the pointer in the place of the axis' name, and marks them.
const point = (svg) => {
  const { at, frame, lines, scale } = LOOKS.get(svg);
  svg.querySelector("g.look")?.remove();
  if (!frame) return;
  if (at === null || at < frame.left - 4 || at > frame.right + 4) {
    frame.nameText.textContent = frame.name;
    return;
  }
  const x = frame.x[0] + ((at - frame.left) / (frame.right - frame.left)) * (frame.x[1] - frame.x[0]);
  const nearest = lines.map((one) => [one, one.points.reduce((best, other) => (Math.abs(other.x - x) < Math.abs(best.x - x) ? other : best))]);
  const [, first] = nearest.reduce((best, other) => (Math.abs(other[1].x - x) < Math.abs(best[1].x - x) ? other : best));
  const [factor, unit] = unitOf("seconds", frame.x[1]);
  const texts = nearest.map(([one, { mean }]) => (lines.length > 1 ? `${one.name} ${written(scale, mean)}` : written(scale, mean)));
  frame.nameText.textContent = `${short(first.x / factor)} ${unit}: ${texts.join(" · ")}`;
  const look = element("g", { class: "look" });
  const content = [];
  const [place] = frame.place(first.x, frame.y[0]);
  line(content, "mark", [place, frame.top], [place, frame.bottom]);
  for (const [one, { x: a, mean }] of nearest) {
    const [cx, cy] = frame.place(a, mean);
    content.push(element("circle", { class: `f${one.colour}`, cx: round(cx), cy: round(cy), r: 3.5 }));
  }
  look.append(...content);
  svg.append(look);
};

const watch = (svg, width) => {
  LOOKS.set(svg, { at: null });
  const move = (at) => {
    LOOKS.get(svg).at = at;
    point(svg);
  };
  svg.addEventListener("pointermove", (event) => {
    const { left, width: wide } = svg.getBoundingClientRect();
    move(((event.clientX - left) / wide) * width);
  });
  svg.addEventListener("pointerleave", () => move(null));
};

/// Draws a line chart into an SVG element. `chart`: title, name of the vertical axis, `y` ("number", "seconds", "share"),
/// `from` and `most` (the axis begins and ends there at the latest and earliest), `to` (likewise of the horizontal one),
/// `lines` (name, colour, stroke, points; the first is drawn on top), `marks`, `small`.
export const draw = (svg, chart) => {
  const size = chart.small ? [200, 82] : [440, 230];
  const lines = chart.lines.filter((one) => one.points.length > 0);
  const count = lines.reduce((sum, one) => sum + one.points.length, 0);
  const content = [];
  let frame;
  if (count === 0) {
    words(content, [size[0] / 2, size[1] / 2], "middle", chart.empty ?? "no step yet");
  } else {
    frame = frameOf(chart, size, lines);
    axes(content, chart, frame, size[0]);
    marks(content, chart, frame);
    for (const one of [...lines].reverse()) curve(content, one, frame, chart.small);
    if (!chart.small && lines.length > 1) {
      const ends = lines.map((one) => [frame.place(0, one.points.at(-1).mean)[1], one]).sort(([a], [b]) => a - b);
      const places = spread(ends.map(([y]) => y), frame.top + 4, frame.bottom - 4);
      ends.forEach(([, one], index) => words(content, [frame.right + 7, places[index] + 4], "start", cut(one.name, NAME_WIDTH), `f${one.colour}`));
    }
  }
  show(svg, size, chart.title, count, content);
  if (chart.small) return;
  if (!LOOKS.has(svg)) watch(svg, size[0]);
  Object.assign(LOOKS.get(svg), { frame, lines, scale: chart.y });
  point(svg);
};

const show = (svg, [width, height], title, count, content) => {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  svg.dataset.points = count;
  svg.replaceChildren(...content);
};

// ---- bars ----------------------------------------------------------------------------------------------------------

/// Draws one bar whose parts (colour, value) add up to a whole.
export const bar = (svg, title, parts) => {
  const sum = parts.reduce((total, part) => total + part.value, 0);
  const there = parts.filter((part) => part.value > 0);
  let x = 0;
  const content = there.map((part) => {
    const share = (part.value / sum) * 100;
    // Something is never drawn as nothing.
    const length = Math.max(0.3, share);
    const drawn = element("rect", { class: `part f${part.colour}`, x: Math.min(x, 100 - length), width: length, height: 6 });
    x += share;
    return drawn;
  });
  svg.setAttribute("preserveAspectRatio", "none");
  show(svg, [100, 6], title, there.length, content);
};

/// Draws how much of a room is taken.
export const meter = (svg, title, share) => {
  svg.setAttribute("viewBox", "0 0 100 6");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const taken = Math.min(1, Math.max(0, share)) * 100;
  svg.replaceChildren(
    element("rect", { class: "room", width: 100, height: 6 }),
    element("rect", { class: share > 0.9 ? "over" : "full", width: taken > 0 ? Math.max(1, taken) : 0, height: 6 }),
  );
};

/// An empty picture.
export const picture = (kind) => element("svg", { class: kind });
