"use strict";
// Everything over time: one chart per element of class "chart", all on the same switchable x axis.
const hidden = new Set(); // arms switched off in the legend
const colour = (arm) => (isDark() ? arm.dark : arm.light);
const faded = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;

/** The points of a curve that have both coordinates. */
function known(x, y, ...others) {
  const kept = y.map((_, i) => i).filter((i) => y[i] !== null && x[i] !== null && x[i] !== undefined);
  return [x, y, ...others].map((column) => kept.map((i) => column[i]));
}

function tracesOf(arm, axis, metric) {
  const grid = arm.grids[arm.metrics[metric] && arm.metrics[metric].grid];
  if (!grid || hidden.has(arm.name)) return [];
  const { mean, low, high, runs } = arm.metrics[metric];
  const shade = colour(arm), out = [], group = { legendgroup: arm.name, showlegend: false };
  if (low) {
    const [x, bottom, top] = known(grid[axis], low, high);
    out.push({ ...group, x: [...x, ...x.slice().reverse()], y: [...top, ...bottom.slice().reverse()], fill: "toself", fillcolor: faded(shade, 0.17),
      line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
  } else if (runs.length > 1) {
    for (const [k, values] of runs.entries()) {
      const [x, y] = known(arm.runs[k][arm.metrics[metric].grid][axis], values);
      out.push({ ...group, x, y, mode: "lines", line: { color: faded(shade, 0.38), width: 1 }, hoverinfo: "skip" });
    }
  }
  const [x, y, bottom, top] = known(grid[axis], mean, low || mean, high || mean);
  const range = low ? bottom.map((v, i) => ` [${v.toPrecision(3)}, ${top[i].toPrecision(3)}]`) : x.map(() => "");
  out.push({ ...group, x, y, text: range, name: arm.name, mode: x.length > 30 ? "lines" : "lines+markers", line: { color: shade, width: 2.4, dash: arm.dash },
    marker: { size: 6, symbol: arm.symbol }, hovertemplate: `${arm.name} %{y:.3~g}%{text}<extra>n = ${arm.n}</extra>` });
  return out;
}

function layoutOf(world, axis, metric) {
  const rule = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), tickfont: { size: 12 }, automargin: true };
  const { axes, metrics } = page.curves, share = metric === "success" || metrics[metric].share;
  const references = metric === "success" ? world.references : [];
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--soft"), family: css("--font"), size: 13 }, showlegend: false,
    margin: { l: 8, r: 10, t: 8, b: 8 }, hovermode: "x unified",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12 } },
    xaxis: { ...rule, title: { text: axes[axis], standoff: 8, font: { size: 12.5 } }, rangemode: "tozero", showgrid: false, ticks: "outside", tickcolor: css("--line") },
    yaxis: { ...rule, rangemode: share || metric === "length" ? "tozero" : "normal", ...(share ? { tickformat: ".0%" } : {}) },
    shapes: references.map((r) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: r.value, y1: r.value, line: { color: css("--soft"), width: 1, dash: "dot" } })),
    annotations: references.map((r) => ({ xref: "paper", x: 0.01, y: r.value, xanchor: "left", yanchor: "bottom", text: r.name, showarrow: false, font: { size: 11 } })),
  };
}

const near = new Set(); // charts in sight or almost: a page of many worlds opens without drawing them all

function drawCharts(places = near) {
  const axis = checked("axis");
  for (const place of places) {
    if (place.id === "profile") {
      drawProfile(place);
      continue;
    }
    const world = page.curves.worlds[place.dataset.world], metric = place.dataset.metric || checked(place.dataset.choice);
    const traces = world.arms.flatMap((arm) => tracesOf(arm, axis, metric));
    place.dataset.traces = traces.length;
    place.parentElement.querySelector(".unmeasured").hidden = traces.length > 0;
    Plotly.react(place, traces, layoutOf(world, axis, metric), { responsive: true, displayModeBar: false });
  }
}

/** Share of runs above each level of normalised gain, one line per method. */
function drawProfile(place) {
  const traces = page.profiles.filter((p) => !hidden.has(p.arm)).flatMap((p) => {
    const arm = page.styles[page.arms[p.arm]], x = p.thresholds, shade = colour(arm), out = [];
    if (p.low) {
      out.push({ x: [...x, ...x.slice().reverse()], y: [...p.high, ...p.low.slice().reverse()], fill: "toself", fillcolor: faded(shade, 0.09), line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
    }
    return [...out, { x, y: p.share, name: p.arm, mode: "lines", line: { color: shade, width: 2.4, dash: arm.dash, shape: "hv" }, hovertemplate: `${p.arm} %{y:.0%}<extra>n = ${p.n}</extra>` }];
  });
  const base = layoutOf({ references: [] }, "step", "success");
  base.xaxis.title.text = "normalised gain";
  Plotly.react(place, traces, { ...base, xaxis: { ...base.xaxis, rangemode: "normal", tickformat: ".0%" }, yaxis: { ...base.yaxis, range: [0, 1.02] } }, { responsive: true, displayModeBar: false });
}

function startCharts() {
  const redraw = onceAFrame(() => drawCharts());
  const sight = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) isIntersecting ? near.add(target) : near.delete(target);
    redraw();
  }, { rootMargin: "500px" });
  all(".chart, .profile").forEach((place) => sight.observe(place));
  addEventListener("beforeprint", () => drawCharts(all(".chart, .profile")));
  all("#time input").forEach((input) => input.addEventListener("change", redraw));
  for (const button of all("button[data-arm]")) {
    button.addEventListener("click", () => {
      const off = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!off));
      if (off) hidden.add(button.dataset.arm); else hidden.delete(button.dataset.arm);
      redraw();
    });
  }
  return redraw;
}
