// One cell: how to run it again, how it failed, all its numbers, and its curves.

const HIDDEN = new Set(["cell", "task", "model", "solver", "gradient", "status", "reason", "schema", "higher_is_better", "out"]);
const CURVES = [["train_loss", "training loss"], ["test_score", "score"], ["f_forward", "evaluations, forward"], ["f_backward", "evaluations, backward"]];

async function cellView(data, key, rows) {
  const number = data.rowOf.get(key);
  const view = byId("view");
  if (number === undefined) {
    view.replaceChildren(backLink(), make("h1", { tabIndex: -1 }, "No such cell"), make("p", {}, `This page holds no cell ${key}.`));
    return "No such cell";
  }
  const { row, command, source, folder, output, lists } = await wholeRow(data, number);
  const name = [row.solver || row.model || (row.packages || {}).plugin, row.task && `on ${row.task}`].filter(Boolean).join(" ");
  const status = make("p", {}, make("span", { className: `status ${row.status}` }, row.status.replace("_", " ")));
  status.append(` · ${[row.model, row.gradient && `gradient ${row.gradient}`, valueText(data.byName.step, number), row.preset, row.device].filter(Boolean).join(" · ")}`);
  view.replaceChildren(ways(data, number, rows), make("h1", { tabIndex: -1 }, name), status);
  if (row.reason) view.append(make("h2", {}, row.status === "skipped" ? "Why it was not run" : "What went wrong"), make("pre", {}, row.reason));
  if (output) view.append(make("h2", {}, "The last of what it printed"), make("pre", { tabIndex: 0 }, output));
  if (command) view.append(make("h2", {}, "To run it again"), commandBox(command));
  view.append(make("h2", {}, "Numbers"), facts(row));
  const figures = curvesOf(lists.history || [], row).concat(ladderOf(lists.work_precision || [])).map(chartFigure);
  if (figures.length) view.append(make("h2", {}, "Curves"), make("div", { className: "charts" }, ...figures));
  const where = folder && folder !== "." ? `; what the run left besides is in ${folder}` : "";
  view.append(make("p", { className: "soft" }, `Cell ${key}, stored in ${source}${where}.`));
  return name;
}

function backLink() {
  return make("nav", { "aria-label": "Cells" }, make("a", { href: "#results", id: "back" }, "← All results"));
}

function ways(data, number, rows) {
  const nav = backLink(), place = rows.indexOf(number);
  for (const [step, text] of [[-1, "Previous"], [1, "Next"]]) {
    const other = place < 0 ? undefined : rows[place + step];
    if (other !== undefined) nav.append(make("a", { href: `#cell=${keyOf(data, other)}` }, text));
  }
  if (place >= 0) nav.append(make("span", { className: "soft" }, `${(place + 1).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`));
  return nav;
}

function commandBox(command) {
  const text = make("pre", { tabIndex: 0 }, command);
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
  });
  return make("div", { className: "command" }, text, button);
}

function facts(row) {
  const list = make("dl");
  for (const [name, value] of Object.entries(row)) {
    if (HIDDEN.has(name) || value === null || value === "") continue;
    const text = factText(value);
    if (text) list.append(make("div", {}, make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, text)));
  }
  return list;
}

function factText(value) {
  if (typeof value === "number") return numberText(value, 6);
  if (Array.isArray(value)) return value.every((part) => typeof part !== "object") ? value.join(", ") : "";
  if (typeof value !== "object") return String(value);
  const parts = Object.entries(value);
  return parts.every(([, part]) => typeof part !== "object") ? parts.map(([name, part]) => `${name} ${factText(part)}`).join(", ") : "";
}

function curvesOf(history, row) {
  return CURVES.flatMap(([column, words]) => {
    const label = column === "test_score" && row.score_name ? row.score_name.replaceAll("_", " ") : words;
    const points = history.filter((epoch) => typeof epoch[column] === "number").map((epoch) => [epoch.epoch, epoch[column]]);
    if (!points.length || points.every(([, value]) => value === 0)) return [];
    return [oneSeries(`${label} after each epoch`, "epoch", label, points)];
  });
}

function ladderOf(rungs) {
  const whole = rungs.filter((rung) => rung.error > 0 && rung.f_calls > 0);
  const named = (rung) => ("dt" in rung ? `dt ${numberText(rung.dt)}` : `rtol ${numberText(rung.rtol)}`);
  if (whole.length < 2) return [];
  const errors = whole.map((rung) => [rung.f_calls, rung.error, null, null, "", named(rung)]);
  const charts = [oneSeries("error against evaluations", "evaluations in a solve", "relative error", errors, true)];
  const held = whole.filter((rung) => rung.memory_bytes > 0).map((rung) => [rung.f_calls, rung.memory_bytes / 2 ** 20, null, null, "", named(rung)]);
  if (held.length > 1) charts.push(oneSeries("memory against depth", "evaluations in a solve", "memory, MiB", held, true));
  return charts;
}

function oneSeries(title, x, y, points, log = false) {
  return { title, caption: "", x: { label: x, log }, y: { label: y, log }, series: [{ name: "", solver: "", joined: true, stepped: false, style: 0, points }] };
}
