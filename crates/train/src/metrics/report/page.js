// Draws the curves at the width that there is, and shows the values under the pointer.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const charts = [];

  const element = (name, attributes = {}, text = "") => {
    const svg = ["svg", "path", "line", "circle", "text", "g"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };

  // Round numbers from low to high, about `count` of them.
  const ticks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const distance = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const found = [];
    for (let index = Math.ceil(low / distance - 1e-9); index * distance <= high + distance * 1e-9; index++) found.push(index * distance + 0); // + 0: never -0
    return found;
  };

  // On a logarithmic axis: whole decades, with 2 and 5 where there are few.
  const logTicks = (low, high) => {
    const decades = Math.log10(high / low);
    if (decades < 0.7) return ticks(low, high, 4);
    const factors = decades < 2 ? [1, 2, 5] : [1];
    const skip = Math.max(1, Math.ceil(decades / 6));
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      if (power % skip !== 0) continue;
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    return found;
  };

  const number = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e6) return Number((value / 1e6).toPrecision(4)) + " M";
    if (size >= 1e4) return Number((value / 1e3).toPrecision(4)) + " k";
    if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(4)));
  };

  // Index of the value nearest to `x` in an ascending list.
  const nearest = (list, x) => {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] <= x) low = middle; else high = middle;
    }
    return Math.abs(list[low] - x) <= Math.abs(list[high] - x) ? low : high;
  };

  class Chart {
    constructor(figure, chart) {
      this.chart = chart;
      this.log = chart.log;
      this.main = chart.series.find((series) => series.role === "line");
      const caption = element("figcaption");
      caption.append(element("strong", {}, chart.title));
      if (chart.unit) caption.append(element("span", {}, chart.unit));
      if (chart.key === "loss") caption.append(this.legend());
      const button = element("button", { type: "button", "aria-pressed": this.log, title: "Logarithmic axis" }, "log");
      button.addEventListener("click", () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", this.log);
        this.draw();
      });
      caption.append(button);
      this.plot = element("div", { class: "plot" });
      this.readout = element("p", { class: "readout" });
      figure.replaceChildren(caption, this.plot, this.readout);
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => charts.forEach((chart) => chart.show(null)));
      this.width = 0;
      new ResizeObserver(() => {
        if (this.plot.clientWidth !== this.width) this.draw();
      }).observe(this.plot);
    }

    legend() {
      const legend = element("span", { class: "legend" });
      for (const series of this.chart.series) legend.append(element("span", { class: `key ${series.role}` }, series.name));
      if (data.skipped.length) legend.append(element("span", { class: "key skipped" }, "skipped step"));
      if (data.resumed.length) legend.append(element("span", { class: "key resumed" }, "resumed"));
      return legend;
    }

    range() {
      let low = Infinity, high = -Infinity;
      for (const series of this.chart.series) {
        for (const value of series.y) {
          if (value === null || (this.log && value <= 0)) continue;
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
      if (low > high) return null;
      if (this.log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
      if (this.chart.zero && low >= 0) return [0, high > 0 ? high * 1.06 : 1];
      const margin = low === high ? Math.max(Math.abs(high), 1) / 2 : (high - low) * 0.05;
      return [low - margin, high + margin];
    }

    draw() {
      const width = this.width = this.plot.clientWidth;
      if (width < 40) return;
      const height = Math.round(this.chart.key === "loss" ? Math.min(360, Math.max(230, width * 0.42)) : 190);
      const range = this.range();
      const [low, high] = range ?? [1, 2];
      const levels = range === null ? [] : this.log ? logTicks(low, high) : ticks(low, high, height / 52);
      const labels = levels.map(number);
      const left = 12 + 7 * Math.max(...labels.map((label) => label.length), 2);
      const [right, top, bottom] = [8, 8, 24];
      const steps = this.main.x;
      let [first, last] = [steps[0], steps[steps.length - 1]];
      if (first === last) [first, last] = [first - 1, last + 1];
      else if (first === 1 && last > 20) first = 0;
      this.x = (step) => left + (step - first) / (last - first) * (width - left - right);
      this.step = (x) => first + (x - left) / (width - left - right) * (last - first);
      const share = this.log
        ? (value) => Math.log(value / low) / Math.log(high / low)
        : (value) => (value - low) / (high - low);
      this.y = (value) => height - bottom - share(value) * (height - top - bottom);
      this.base = height - bottom;
      this.top = top;

      const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${this.chart.title} over the steps` });
      levels.forEach((level, index) => {
        const y = this.y(level);
        svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
        svg.append(element("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, labels[index]));
      });
      svg.append(element("line", { class: "axis", x1: left, x2: width - right, y1: this.base, y2: this.base }));
      const places = steps.length === 1 ? steps : ticks(first, last, Math.max(3, width / 130)).filter(Number.isInteger);
      for (const step of places) {
        const x = this.x(step);
        svg.append(element("line", { class: "axis", x1: x, x2: x, y1: this.base, y2: this.base + 4 }));
        const anchor = x > width - right - 16 ? "end" : x < 16 ? "start" : "middle";
        svg.append(element("text", { x, y: height - 5, "text-anchor": anchor }, step.toLocaleString("en")));
      }
      this.marks(svg, data.resumed, "resumed", this.top);
      for (const series of this.chart.series) this.series(svg, series);
      this.marks(svg, data.skipped, "skipped", this.base - 9);
      if (range === null) svg.append(element("text", { class: "nothing", x: (left + width - right) / 2, y: height / 2 }, "no finite value"));
      this.cursor = svg.appendChild(element("g"));
      this.plot.replaceChildren(svg);
      this.show(null);
    }

    marks(svg, list, kind, top) {
      let before = -Infinity;
      for (const step of list) {
        const x = this.x(step);
        if (x - before < 1.5) continue;
        before = x;
        svg.append(element("line", { class: kind, x1: x, x2: x, y1: top, y2: this.base }));
      }
    }

    series(svg, series) {
      const usable = (value) => value !== null && (!this.log || value > 0);
      const many = series.x.length > 40;
      if (series.role === "points" || series.x.length === 1) {
        const kind = series.role !== "points" ? "dot" : many ? "many" : "";
        series.x.forEach((step, index) => {
          const value = series.y[index];
          if (usable(value)) svg.append(element("circle", { class: kind, cx: this.x(step), cy: this.y(value), r: many ? 2 : 4 }));
        });
        if (!many) return;
      }
      if (series.role === "raw" && series.x.length > this.width * 1.5) {
        svg.append(element("path", { class: "band", d: this.band(series, usable) }));
        return;
      }
      let path = "", drawing = false;
      series.x.forEach((step, index) => {
        const value = series.y[index];
        if (usable(value)) path += `${drawing ? "L" : "M"}${this.x(step).toFixed(1)} ${this.y(value).toFixed(1)}`;
        drawing = usable(value);
      });
      svg.append(element("path", { class: series.role, d: path }));
    }

    // More values than columns of pixels: what lies between the least and the greatest of each.
    band(series, usable) {
      const columns = new Map();
      series.x.forEach((step, index) => {
        const value = series.y[index];
        if (!usable(value)) return;
        const x = Math.round(this.x(step) / 2) * 2;
        const [low, high] = columns.get(x) ?? [value, value];
        columns.set(x, [Math.min(low, value), Math.max(high, value)]);
      });
      const corner = (x, value) => `${x} ${this.y(value).toFixed(1)}`;
      const ends = [...columns];
      const over = ends.map(([x, [, high]]) => corner(x, high));
      const under = ends.map(([x, [low]]) => corner(x, low)).reverse();
      return `M${[...over, ...under].join("L")}Z`;
    }

    point(event) {
      const step = this.step(event.clientX - this.plot.getBoundingClientRect().left);
      const near = this.main.x[nearest(this.main.x, step)];
      charts.forEach((chart) => chart.show(near));
    }

    // The values at a step, or of the last one.
    show(step) {
      if (!this.cursor) return;
      this.cursor.replaceChildren();
      const at = step ?? this.main.x[this.main.x.length - 1];
      if (step !== null) {
        const x = this.x(at);
        this.cursor.append(element("line", { class: "cursor", x1: x, x2: x, y1: this.top, y2: this.base }));
      }
      this.readout.replaceChildren(`step ${at.toLocaleString("en")}`);
      for (const series of this.chart.series) {
        const index = nearest(series.x, at);
        // Points far off belong to other steps.
        if (series.role === "points" && series.x[index] !== at) continue;
        const value = series.y[index];
        // The small charts have no place for more words.
        const name = this.chart.key !== "loss" && series.role === "raw" ? "" : series.name;
        const label = name ? ` · ${name} ` : " · ";
        this.readout.append(label, element("b", {}, value === null ? "not finite" : number(value)));
        if (step !== null && value !== null && series.role !== "raw" && !(this.log && value <= 0)) {
          const kind = series.role === "points" ? "" : "dot";
          this.cursor.append(element("circle", { class: kind, cx: this.x(series.x[index]), cy: this.y(value), r: 4 }));
        }
      }
      if (data.skipped.includes(at)) this.readout.append(" · skipped");
    }
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = data.charts.find((chart) => chart.key === figure.dataset.chart);
    charts.push(new Chart(figure, chart));
  }
  charts.forEach((chart) => chart.draw());
})();
