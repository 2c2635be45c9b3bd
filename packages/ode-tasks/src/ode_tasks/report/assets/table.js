// The table of all results. Only the rows in sight are in the document.

const OVERSCAN = 12;
const PRINTED = 300;

class Table {
  constructor(data, sort) {
    this.data = data;
    this.rows = new Int32Array();
    this.shown = data.columns.filter((column) => column.shown);
    this.frame = byId("rows");
    this.body = byId("body");
    this.drawn = new Map();
    this.top = make("tr", { className: "space", "aria-hidden": "true" }, make("td", { colSpan: this.shown.length + 1 }));
    this.bottom = this.top.cloneNode(true);
    this.body.append(this.top, this.bottom);
    byId("table").setAttribute("aria-colcount", this.shown.length);
    this.heads(sort);
    this.frame.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()), { passive: true });
    this.frame.addEventListener("keydown", (event) => this.move(event));
    this.frame.addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (row && !event.target.closest("a") && !String(getSelection())) row.querySelector("a").click();
    });
    addEventListener("resize", () => this.measure());
    addEventListener("beforeprint", () => { this.printing = true; this.draw(); });
    addEventListener("afterprint", () => { this.printing = false; this.draw(); });
  }

  heads(sort) {
    for (const column of this.shown) {
      const button = make("button", { type: "button" }, column.heading);
      button.addEventListener("click", () => sort(column));
      const head = make("th", { scope: "col", role: "columnheader", className: column.numbers ? "number" : "" }, button);
      column.head = head;
      byId("heads").append(head);
    }
  }

  mark(sorted, down) {
    for (const column of this.shown) column.head.removeAttribute("aria-sort");
    if (sorted?.head) sorted.head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  show(rows) {
    this.rows = rows;
    byId("table").setAttribute("aria-rowcount", rows.length + 1);
    this.clear();
    this.frame.scrollTop = 0;
    this.measure();
  }

  clear() {
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
  }

  measure() {
    if (!this.frame.offsetParent) return; // the report is not in sight
    this.draw(0, Math.min(this.rows.length, 1));
    const first = this.drawn.get(0);
    if (first) this.height = first.getBoundingClientRect().height || this.height;
    this.draw();
  }

  draw(from, to) {
    const count = this.rows.length;
    const height = this.height || 34;
    const inSight = Math.ceil(this.frame.clientHeight / height) + 1;
    const first = from ?? (this.printing ? 0 : Math.max(0, Math.floor(this.frame.scrollTop / height) - OVERSCAN));
    const last = to ?? Math.min(count, this.printing ? PRINTED : first + inSight + 2 * OVERSCAN);
    // Before rows go, or the frame would be too low for a moment and scroll back.
    this.top.firstChild.style.height = `${this.printing ? 0 : first * height}px`;
    this.bottom.firstChild.style.height = `${this.printing ? 0 : (count - last) * height}px`;
    for (const [place, row] of this.drawn) {
      if (place < first || place >= last) {
        row.remove();
        this.drawn.delete(place);
      }
    }
    let next = this.bottom;
    for (let place = last - 1; place >= first; place--) {
      let row = this.drawn.get(place);
      if (!row) {
        row = this.row(place);
        this.drawn.set(place, row);
        this.body.insertBefore(row, next);
      }
      next = row;
    }
  }

  row(place) {
    const row = this.rows[place];
    const made = make("tr", { className: "row", role: "row", "aria-rowindex": place + 2 });
    made.dataset.place = place;
    for (const column of this.shown) made.append(this.cell(column, row));
    made.append(make("td", { className: "brief", role: "cell" }, ...this.brief(row)));
    return made;
  }

  cell(column, row) {
    const text = valueText(column, row);
    if (column.name === "solver") {
      const name = text || valueText(this.data.byName.model, row) || "plugin";
      const link = make("a", { href: `#cell=${keyOf(this.data, row)}` }, name);
      return make("th", { scope: "row", role: "rowheader" }, link);
    }
    const made = make("td", { role: "cell", title: text.length > 24 ? text : "" });
    if (column.name === "status") made.className = `status ${text}`;
    else if (column.numbers) made.className = "number";
    made.textContent = column.name === "status" ? text.replace("_", " ") : text;
    return made;
  }

  // Two lines, which stand for the columns where there is no room for them.
  brief(row) {
    const words = [], numbers = [];
    for (const column of this.shown) {
      const text = valueText(column, row);
      if (!text || column.name === "solver" || column.name === "status") continue;
      if (column.numbers) numbers.push(`${column.heading} ${text}`);
      else words.push(text);
    }
    return [words, numbers].map((parts) => make("div", {}, parts.join(" · ")));
  }

  focus(place) {
    if (place < 0 || place >= this.rows.length) return;
    const height = this.height || 34;
    const head = byId("heads").offsetHeight;
    const top = place * height, view = this.frame.clientHeight - head;
    if (top < this.frame.scrollTop) this.frame.scrollTop = top;
    else if (top + height > this.frame.scrollTop + view) this.frame.scrollTop = top + height - view;
    this.draw();
    this.drawn.get(place)?.querySelector("a").focus({ preventScroll: true });
  }

  focusKey(key) {
    this.focus(this.rows.indexOf(this.data.rowOf.get(key)));
  }

  move(event) {
    const row = event.target.closest("tr.row");
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    const at = Number(row.dataset.place), page = Math.max(1, Math.floor(this.frame.clientHeight / this.height) - 2);
    const last = this.rows.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: Math.min(last, at + page),
      PageUp: Math.max(0, at - page), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.focus(to);
  }
}
