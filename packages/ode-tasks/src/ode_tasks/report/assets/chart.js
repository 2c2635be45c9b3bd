// Charts as SVG, linked: a name picked in one is picked in all, a point opens its cell.

const COLOURS = 12;
const LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 42;
const drawnCharts = new Set();
let pickedName = "";
let solversInSight = null;

function chartFigure(chart) {
  const figure = make("figure", { className: "chart" });
  figure.append(make("h4", {}, chart.title));
  const place = make("div");
  figure.append(place, legend(chart), make("figcaption", { className: "soft" }, chart.caption), numbersOf(chart));
  drawnCharts.add(figure);
  new ResizeObserver(() => {
    const width = Math.round(place.clientWidth);
    if (!width || width === figure.width) return;
    figure.width = width;
    place.replaceChildren(chartSvg(chart, width));
    dimSeries(figure);
  }).observe(place);
  return figure;
}

function colour(series) {
  return `var(--c${series.style % COLOURS})`;
}

function legend(chart) {
  const list = make("ul", { className: "legend" });
  if (chart.series.length === 1 && !chart.series[0].name) return list;
  for (const series of chart.series) {
    const mark = make("i");
    mark.style.background = colour(series);
    const button = make("button", { type: "button", "aria-pressed": "false" }, mark, series.name);
    button.dataset.name = series.name;
    button.dataset.solver = series.solver;
    button.addEventListener("click", () => pick(pickedName === series.name ? "" : series.name));
    list.append(make("li", {}, button));
  }
  return list;
}

function pick(name) {
  pickedName = name;
  for (const figure of drawnCharts) dimSeries(figure);
}

function linkSolvers(solvers) {
  solversInSight = solvers;
  for (const figure of drawnCharts) dimSeries(figure);
}

function dimSeries(figure) {
  const named = [...figure.querySelectorAll("[data-name]")];
  const picked = pickedName && named.some((part) => part.dataset.name === pickedName);
  for (const part of named) {
    const { name, solver } = part.dataset;
    const faint = picked ? name !== pickedName : Boolean(solversInSight && solver && !solversInSight.has(solver));
    part.classList.toggle("dim", faint);
    if (part.tagName === "BUTTON") part.setAttribute("aria-pressed", String(name === pickedName));
  }
}

function chartSvg(chart, width) {
  const height = Math.max(210, Math.min(330, Math.round(width * 0.66)));
  const points = chart.series.flatMap((series) => series.points);
  const x = makeScale(points.map((p) => p[0]), chart.x.log, chart.x.label === "epoch");
  const y = makeScale(points.flatMap((p) => [p[1], p[2] ?? p[1], p[3] ?? p[1]]), chart.y.log);
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${chart.title}. ${chart.caption}` });
  if (!x || !y) return svg;
  const inner = { width: width - LEFT - RIGHT, height: height - TOP - BOTTOM };
  const place = (p, value = p[1]) => [LEFT + x.at(p[0]) * inner.width, TOP + (1 - y.at(value)) * inner.height];
  svg.append(axesSvg(chart, x, y, width, height));
  const near = [];
  for (const series of chart.series) {
    svg.append(seriesSvg(series, (p, value) => place(p, value), y.log));
    for (const point of series.points) near.push({ series, point, at: place(point) });
  }
  hover(svg, near, chart);
  return svg;
}

function axesSvg(chart, x, y, width, height) {
  const group = makeSvg("g", { "aria-hidden": "true" });
  const right = width - RIGHT, bottom = height - BOTTOM;
  let lastEnd = -Infinity;
  for (const tick of x.ticks) {
    const at = LEFT + x.at(tick) * (right - LEFT);
    group.append(makeSvg("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: bottom }));
    const text = tickText(tick, x.log);
    if (at - text.length * 3.4 < lastEnd + 6) continue;
    lastEnd = at + text.length * 3.4;
    group.append(makeSvg("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, text));
  }
  for (const tick of y.ticks) {
    const at = bottom - y.at(tick) * (bottom - TOP);
    group.append(makeSvg("line", { class: "grid", x1: LEFT, x2: right, y1: at, y2: at }));
    group.append(makeSvg("text", { x: LEFT - 7, y: at + 4, "text-anchor": "end" }, tickText(tick, y.log)));
  }
  group.append(makeSvg("rect", { class: "frame", x: LEFT, y: TOP, width: right - LEFT, height: bottom - TOP }));
  group.append(makeSvg("text", { x: (LEFT + right) / 2, y: height - 6, "text-anchor": "middle" }, chart.x.label));
  group.append(makeSvg("text", { transform: `translate(12 ${(TOP + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, chart.y.label));
  return group;
}

function seriesSvg(series, place, log) {
  const group = makeSvg("g", { class: "series", "data-name": series.name, "data-solver": series.solver });
  const points = series.points.filter((p) => !log || p[1] > 0);
  const ends = points.filter((p) => p[2] != null && p[3] != null);
  const fit = (p, value) => place(p, log && value <= 0 ? p[1] : value).join(" ");
  if (ends.length && series.joined) {
    const upper = points.map((p) => fit(p, p[3] ?? p[1])), lower = points.map((p) => fit(p, p[2] ?? p[1]));
    group.append(makeSvg("path", { class: "band", fill: colour(series), d: `M${[...upper, ...lower.reverse()].join("L")}Z` }));
  } else {
    for (const p of ends) group.append(makeSvg("path", { stroke: colour(series), d: `M${fit(p, p[2])}L${fit(p, p[3])}`, opacity: 0.5 }));
  }
  if (series.joined) group.append(makeSvg("path", { class: "line", stroke: colour(series), d: linePath(series, points, place), "stroke-dasharray": series.style < COLOURS ? "none" : "5 3" }));
  if (!series.stepped && (!series.joined || points.length <= 20)) {
    for (const p of points) {
      const [cx, cy] = place(p);
      group.append(makeSvg("circle", { class: "dot", r: series.joined ? 3.2 : 4.5, cx, cy, fill: colour(series) }));
    }
  }
  return group;
}

function linePath(series, points, place) {
  const at = points.map((p) => place(p));
  if (!series.stepped) return `M${at.map((pair) => pair.join(" ")).join("L")}`;
  return at.map(([px, py], n) => (n ? `H${px}V${py}` : `M${px} ${py}`)).join("");
}

function hover(svg, near, chart) {
  const ring = makeSvg("circle", { class: "near", r: 6, fill: "none", visibility: "hidden" });
  svg.append(ring);
  const closest = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let best = null, least = 28 ** 2;
    for (const candidate of near) {
      const distance = (candidate.at[0] - px) ** 2 + (candidate.at[1] - py) ** 2;
      if (distance < least) [best, least] = [candidate, distance];
    }
    return best;
  };
  svg.addEventListener("pointermove", (event) => {
    const best = closest(event);
    ring.setAttribute("visibility", best ? "visible" : "hidden");
    svg.style.cursor = best?.point[4] ? "pointer" : "";
    if (!best) return showTip("");
    ring.setAttribute("cx", best.at[0]);
    ring.setAttribute("cy", best.at[1]);
    showTip(pointText(best, chart), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", () => { ring.setAttribute("visibility", "hidden"); showTip(""); });
  svg.addEventListener("click", (event) => openCell(closest(event)?.point[4]));
}

function pointText({ series, point }, chart) {
  const [x, y, low, high, , note] = point;
  const range = low == null ? "" : ` (${numberText(low)} to ${numberText(high)})`;
  const name = [series.name, note].filter(Boolean).join(", ");
  return `${name}\n${chart.x.label}: ${numberText(x)}\n${chart.y.label}: ${numberText(y)}${range}`;
}

function numbersOf(chart) {
  const details = make("details", {}, make("summary", {}, "The numbers"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const body = make("tbody");
    for (const series of chart.series) {
      for (const [x, y, , , , note] of series.points) {
        const name = make("th", { scope: "row" }, [series.name, note].filter(Boolean).join(", "));
        body.append(make("tr", {}, name, make("td", { className: "number" }, numberText(x)), make("td", { className: "number" }, numberText(y))));
      }
    }
    const heads = ["", chart.x.label, chart.y.label].map((text, n) => make("th", { scope: "col", className: n ? "number" : "" }, text));
    details.append(make("div", {}, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)));
  });
  return details;
}
