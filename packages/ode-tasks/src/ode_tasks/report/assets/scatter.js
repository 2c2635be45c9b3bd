// The rows in sight as points, on a canvas: there may be a hundred thousand.

const MARGIN = { left: 62, right: 14, top: 12, bottom: 44 };

class Scatter {
  constructor(data, narrow) {
    this.data = data;
    this.narrow = narrow;
    this.rows = new Int32Array();
    this.canvas = byId("points");
    const numeric = data.columns.filter((column) => column.numbers && column.numbers.some((v) => !Number.isNaN(v)));
    for (const id of ["across", "up"]) {
      for (const column of numeric) byId(id).append(make("option", { value: column.name }, column.heading));
      byId(id).addEventListener("change", () => this.draw());
    }
    this.usable = numeric.length > 1;
    byId("explorer").hidden = !this.usable;
    if (!this.usable) return;
    const names = numeric.map((column) => column.name);
    const first = (...wanted) => wanted.find((name) => names.includes(name)) || names[0];
    byId("across").value = first("f_forward", "epoch_seconds", "seconds");
    byId("up").value = first("solver_error", "score");
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  // The points follow the table by a moment, so that typing never waits for them.
  show(rows) {
    this.rows = rows;
    clearTimeout(this.later);
    this.later = setTimeout(() => this.draw(), rows.length > 5000 ? 120 : 0);
  }

  axis(id) {
    return this.data.byName[byId(id).value];
  }

  draw() {
    if (!this.usable || !this.canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const across = this.axis("across"), up = this.axis("up");
    this.place(across.numbers, up.numbers, width, height);
    this.canvas.setAttribute("aria-label", `${up.heading} against ${across.heading}, ${this.points.length} points`);
    if (!this.points.length) {
      pen.fillStyle = themed("--soft");
      pen.font = "14px system-ui, sans-serif";
      pen.fillText("None of these rows has both numbers.", MARGIN.left, height / 2);
      return;
    }
    this.axes(pen, across, up, width, height);
    this.dots(pen);
    this.marquee(pen);
  }

  place(xs, ys, width, height) {
    const both = this.rows.filter((row) => !Number.isNaN(xs[row]) && !Number.isNaN(ys[row]));
    const values = (numbers) => Float64Array.from(both, (row) => numbers[row]);
    this.x = scaleOf(values(xs));
    this.y = scaleOf(values(ys));
    this.points = [];
    if (!this.x || !this.y) return;
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    for (const row of both) {
      if ((this.x.log && xs[row] <= 0) || (this.y.log && ys[row] <= 0)) continue;
      this.points.push({ row, x: MARGIN.left + this.x.at(xs[row]) * inner.width, y: MARGIN.top + (1 - this.y.at(ys[row])) * inner.height });
    }
    this.inner = inner;
  }

  axes(pen, across, up, width, height) {
    const bottom = height - MARGIN.bottom, right = width - MARGIN.right;
    pen.strokeStyle = themed("--grid");
    pen.fillStyle = themed("--soft");
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    let lastEnd = -Infinity;
    for (const tick of this.x.ticks) {
      const at = MARGIN.left + this.x.at(tick) * this.inner.width, text = tickText(tick, this.x.log);
      line(pen, at, MARGIN.top, at, bottom);
      const half = pen.measureText(text).width / 2;
      if (at - half < lastEnd + 8) continue;
      lastEnd = at + half;
      pen.fillText(text, at, bottom + 17);
    }
    pen.textAlign = "right";
    for (const tick of this.y.ticks) {
      const at = bottom - this.y.at(tick) * this.inner.height;
      line(pen, MARGIN.left, at, right, at);
      pen.fillText(tickText(tick, this.y.log), MARGIN.left - 7, at + 4);
    }
    pen.textAlign = "center";
    pen.fillText(across.heading, (MARGIN.left + right) / 2, height - 8);
    pen.save();
    pen.translate(14, (MARGIN.top + bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(up.heading, 0, 0);
    pen.restore();
  }

  dots(pen) {
    const tasks = this.data.byName.task, many = this.points.length > 3000;
    const colours = tasks.texts.map((_, code) => themed(`--c${code % COLOURS}`));
    const size = many ? 2 : this.points.length > 400 ? 5 : 7;
    pen.globalAlpha = many ? 0.35 : 0.75;
    for (const { row, x, y } of this.points) {
      pen.fillStyle = colours[tasks.codes[row]];
      if (many) pen.fillRect(x - 1, y - 1, size, size);
      else {
        pen.beginPath();
        pen.arc(x, y, size / 2, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
  }

  marquee(pen) {
    if (!this.from) return;
    pen.strokeStyle = themed("--accent");
    pen.strokeRect(this.from.x, this.from.y, this.to.x - this.from.x, this.to.y - this.from.y);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  closest({ x, y }) {
    let best = null, least = 12 ** 2;
    for (const point of this.points || []) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || event.pointerType === "touch" || !this.points?.length) return;
      this.from = this.to = this.at(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.from) {
        this.to = this.at(event);
        return this.draw();
      }
      const point = this.closest(this.at(event));
      canvas.style.cursor = point ? "pointer" : "";
      showTip(point ? this.text(point.row) : "", event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", () => showTip(""));
    canvas.addEventListener("pointerup", (event) => {
      const { from } = this, to = this.at(event);
      this.from = null;
      if (from && Math.hypot(to.x - from.x, to.y - from.y) > 6) return this.choose(from, to);
      const point = this.closest(to);
      this.draw();
      if (point) openCell(keyOf(this.data, point.row));
    });
  }

  choose(from, to) {
    const shareX = (x) => this.x.back((x - MARGIN.left) / this.inner.width);
    const shareY = (y) => this.y.back(1 - (y - MARGIN.top) / this.inner.height);
    const terms = [];
    for (const [name, ends] of [[byId("across").value, [shareX(from.x), shareX(to.x)]], [byId("up").value, [shareY(from.y), shareY(to.y)]]]) {
      terms.push(`${name}>=${Math.min(...ends).toPrecision(3)}`, `${name}<=${Math.max(...ends).toPrecision(3)}`);
    }
    this.narrow(terms.join(" "));
  }

  text(row) {
    const { byName } = this.data;
    const head = ["task", "solver", "gradient", "step"].map((name) => valueText(byName[name], row)).filter(Boolean).join(", ");
    const lines = ["across", "up"].map((id) => `${this.axis(id).heading}: ${valueText(this.axis(id), row)}`);
    return [head, ...lines].join("\n");
  }
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

// A logarithmic scale where the values span more than a decade and a half.
function scaleOf(values) {
  let least = Infinity, most = -Infinity;
  for (const value of values) {
    if (value > 0 && value < least) least = value;
    if (value > most) most = value;
  }
  return makeScale(values, most > 30 * least);
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
