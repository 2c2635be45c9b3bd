// The parts put together: what is filtered, what is sorted, and which view is open.

const CHOICES = ["task", "solver", "gradient", "status", "preset", "device"];
const MOST_CHOICES = 200;

async function begin() {
  const data = await loadData();
  const state = { column: null, down: false, order: sortRows(data.count), rows: new Int32Array(), scroll: 0 };
  const table = new Table(data, (column) => sortBy(column, column === state.column && !state.down));
  const scatter = new Scatter(data, (terms) => {
    byId("query").value = `${byId("query").value} ${terms}`.trim();
    refresh();
  });
  const selects = choices(data);
  sortings();

  function refresh() {
    const terms = parseQuery(byId("query").value, data.columns);
    for (const select of selects) {
      if (select.value) terms.push({ column: data.byName[select.name], how: "=", value: select.value.toLowerCase() });
    }
    state.rows = terms.length ? filterRows(state.order, testsOf(terms, data.columns)) : state.order;
    const words = state.rows.length === data.count ? "" : ` of ${data.count.toLocaleString("en")}`;
    byId("shown").textContent = `${state.rows.length.toLocaleString("en")}${words} ${data.count === 1 ? "row" : "rows"}`;
    table.show(state.rows);
    scatter.show(state.rows);
    linkSolvers(terms.length ? solversOf(data, state.rows) : null);
  }

  function sortBy(column, down) {
    Object.assign(state, { column, down, order: sortRows(data.count, column, down) });
    table.mark(column, down);
    byId("sorting").value = column ? `${column.name} ${down ? "down" : "up"}` : "";
    refresh();
  }

  function sortings() {
    const select = byId("sorting");
    select.append(make("option", { value: "" }, "as stored"));
    for (const column of table.shown) {
      for (const [end, arrow] of [["up", "▲"], ["down", "▼"]]) select.append(make("option", { value: `${column.name} ${end}` }, `${column.heading} ${arrow}`));
    }
    select.addEventListener("change", () => {
      const [name, end] = select.value.split(" ");
      sortBy(data.byName[name] || null, end === "down");
    });
  }

  async function route() {
    const key = /^#cell=(.*)$/.exec(location.hash)?.[1];
    const report = byId("report"), view = byId("view");
    showTip("");
    if (key === undefined) {
      const from = state.key;
      state.key = undefined;
      view.hidden = true;
      report.hidden = false;
      document.title = state.title;
      if (from === undefined) return;
      scrollTo(0, state.scroll);
      table.measure();
      table.focusKey(decodeURIComponent(from));
      return;
    }
    if (state.key === undefined) state.scroll = scrollY;
    state.key = key;
    for (const figure of drawnCharts) if (view.contains(figure)) drawnCharts.delete(figure);
    const name = await cellView(data, decodeURIComponent(key), state.rows);
    if (state.key !== key) return; // gone on meanwhile
    report.hidden = true;
    view.hidden = false;
    document.title = `${name} · ${state.title}`;
    scrollTo(0, 0);
    view.querySelector("h1").focus({ preventScroll: true });
  }

  state.title = document.title;
  history.scrollRestoration = "manual";
  byId("filters").addEventListener("input", refresh);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => sortBy(null, false)));
  document.querySelectorAll(".counts button").forEach((button) => button.addEventListener("click", () => {
    const status = selects.find((select) => select.name === "status");
    if (status) status.value = button.dataset.status;
    refresh();
    byId("results").scrollIntoView();
    byId("all").focus({ preventScroll: true });
  }));
  drawTasks(data.charts);
  addEventListener("hashchange", route);
  refresh();
  await route();
  document.documentElement.dataset.ready = "true";
}

function choices(data) {
  const selects = [];
  for (const name of CHOICES) {
    const column = data.byName[name];
    const texts = column.texts.filter(Boolean);
    if (texts.length < 2 || texts.length > MOST_CHOICES) continue;
    const select = make("select", { name, "aria-label": column.heading }, make("option", { value: "" }, `every ${column.heading}`));
    for (const text of texts.sort()) select.append(make("option", { value: text }, text.replaceAll("_", " ")));
    byId("choices").append(select);
    selects.push(select);
  }
  return selects;
}

function solversOf(data, rows) {
  const { codes, texts } = data.byName.solver;
  const seen = new Uint8Array(texts.length);
  for (const row of rows) seen[codes[row]] = 1;
  return new Set(texts.filter((_, code) => seen[code]));
}

function drawTasks(charts) {
  for (const details of document.querySelectorAll("details.task")) {
    const place = details.querySelector(".charts");
    const draw = () => {
      if (!details.open || place.childElementCount) return;
      place.append(...charts.filter((chart) => chart.task === details.dataset.task).map(chartFigure));
    };
    details.addEventListener("toggle", draw);
    addEventListener("beforeprint", () => { details.open = true; draw(); });
    draw();
  }
}

begin();
