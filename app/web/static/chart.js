// A chart of the last five minutes: time to the right, one line a series, drawn as SVG.

import { attribute, element, show, svg } from "./dom.js";
import { ago, tick as plain } from "./format.js";

const SPAN_S = 300;
const HEIGHT = 168;
const MARGIN = { top: 22, right: 10, bottom: 24, left: 52 };

export class Chart {
  /** `series`: [{name, value(point) → number or null}]; `format` writes a value with its unit, `tick` one on the axis. */
  constructor(figure, { title, unit = "", series, format, tick = plain }) {
    this.title = title;
    this.unit = unit;
    this.format = format;
    this.tick = tick;
    this.points = [];
    this.gap = 5;
    this.end = 0;
    this.focus = null; // the point under the pointer
    this.when = element("span", { class: "when muted" }, "now");
    this.series = series.map((one, index) => ({
      ...one,
      output: element("b", {}, "–"),
      line: svg("path", { class: `line line-${index}` }),
    }));
    const legend = this.series.map(({ name, output }, index) =>
      element("span", { class: "key" }, ...swatch(index, series.length), `${name} `, output),
    );
    this.area = svg("path", { class: "area" });
    this.axes = svg("g", { class: "axes" });
    this.cursor = svg("line", { class: "cursor", visibility: "hidden" });
    const lines = this.series.map(({ line }) => line);
    this.plot = svg("svg", { role: "img", height: HEIGHT }, this.axes, this.area, ...lines, this.cursor);
    figure.replaceChildren(
      element("figcaption", {}, element("h3", {}, `${title} `, this.when), element("p", {}, ...legend)),
      this.plot,
    );
    this.plot.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.plot.addEventListener("pointerdown", (event) => this.point(event.offsetX));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Show `points`, oldest first, up to `end` (Unix seconds); a hole longer than `gap` stays one. */
  update(points, end, gap) {
    this.points = points.filter(({ time }) => time >= end - SPAN_S && time <= end + 1);
    this.end = end;
    this.gap = gap;
    this.draw();
  }

  point(x) {
    this.focus = null;
    if (x !== null && this.points.length) {
      const time = this.end - SPAN_S * (1 - (x - MARGIN.left) / this.inner);
      this.focus = this.points.reduce((best, point) =>
        Math.abs(point.time - time) < Math.abs(best.time - time) ? point : best,
      );
    }
    this.draw();
  }

  get inner() {
    return Math.max(1, this.plot.clientWidth - MARGIN.left - MARGIN.right);
  }

  draw() {
    const values = this.points.flatMap((point) => this.series.map(({ value }) => value(point) ?? 0));
    const peak = Math.max(0, ...values);
    const top = niceCeiling(peak);
    const bottom = HEIGHT - MARGIN.bottom;
    this.x = (time) => MARGIN.left + this.inner * (1 - (this.end - time) / SPAN_S);
    this.y = (value) => bottom - (bottom - MARGIN.top) * (value / top);
    this.drawAxes(top);
    for (const { line, value } of this.series) {
      attribute(line, "d", this.runs(value).map((run) => path(run)).join(""));
    }
    const filled = this.series.length === 1 ? this.runs(this.series[0].value) : [];
    attribute(this.area, "d", filled.map((run) => closed(run, bottom)).join(""));
    this.drawReadings(peak);
  }

  /** The stretches of a series that have values, each a list of [x, y]. */
  runs(value) {
    const runs = [];
    let before = -Infinity;
    for (const point of this.points) {
      const height = value(point);
      if (height === null || height === undefined) continue;
      if (point.time - before > this.gap) runs.push([]);
      runs.at(-1).push([this.x(point.time), this.y(height)]);
      before = point.time;
    }
    return runs;
  }

  drawAxes(top) {
    const size = `${this.inner} ${top}`;
    if (this.drawn === size) return;
    this.drawn = size;
    const [left, right, bottom] = [MARGIN.left, MARGIN.left + this.inner, HEIGHT - MARGIN.bottom];
    const parts = [svg("text", { x: 0, y: 11 }, this.unit)];
    for (const value of [0, top / 2, top]) {
      const y = this.y(value);
      parts.push(svg("line", { x1: left, x2: right, y1: y, y2: y }));
      parts.push(svg("text", { x: left - 8, y: y + 4, class: "y" }, this.tick(value)));
    }
    for (const minute of this.inner < 360 ? [5, 3, 2, 1, 0] : [5, 4, 3, 2, 1, 0]) {
      const x = right - (this.inner * minute) / 5;
      const anchor = { 5: "start", 0: "end" }[minute] ?? "middle";
      const text = minute === 0 ? "now" : minute === 5 ? "−5 min" : `−${minute}`;
      parts.push(svg("text", { x, y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    this.axes.replaceChildren(...parts);
  }

  /** The values beside the title: of the moment pointed at, else the newest. */
  drawReadings(peak) {
    const newest = this.points.at(-1);
    const current = newest && this.end - newest.time <= this.gap ? newest : undefined;
    const point = this.focus ?? current;
    const said = [];
    for (const { name, value, output } of this.series) {
      const reading = point === undefined ? null : (value(point) ?? null);
      show(output, reading === null ? "–" : this.format(reading));
      said.push(`${name} ${output.textContent}`.trim());
    }
    show(this.when, this.focus ? ago(this.end - this.focus.time) : "now");
    attribute(this.cursor, "visibility", this.focus ? "visible" : "hidden");
    if (this.focus) {
      const x = this.x(this.focus.time);
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", MARGIN.top], ["y2", HEIGHT - MARGIN.bottom]]) {
        attribute(this.cursor, name, value);
      }
    }
    const summary = `${this.title}, last five minutes: now ${said.join(", ")}; highest ${this.format(peak)}.`;
    attribute(this.plot, "aria-label", summary);
  }
}

function swatch(index, of) {
  if (of === 1) return [];
  const line = svg("line", { x1: 0, x2: 18, y1: 4, y2: 4, class: `line line-${index}` });
  return [svg("svg", { width: 18, height: 8, "aria-hidden": "true" }, line)];
}

function path(run) {
  // A single point is drawn as a dot by its round cap.
  const points = run.length === 1 ? [run[0], run[0]] : run;
  return `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
}

function closed(run, bottom) {
  const [first, last] = [run[0][0].toFixed(1), run.at(-1)[0].toFixed(1)];
  return `${path(run)}L${last} ${bottom}L${first} ${bottom}Z`;
}

/** The next of 1, 2, 4, 5, 10 times a power of ten: its half is a round number too. */
function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 5, 10].find((step) => step * power >= value * 0.999);
}
