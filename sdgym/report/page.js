"use strict";
// Draws the learning curves from the data block of the page. No network, no storage.
const data = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const colour = (arm) => (dark() ? arm.dark : arm.light);
const faded = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function curve(points, x, y) {
  const kept = points.filter((p) => p[y] !== null && p[y] !== undefined && p[x] !== null && p[x] !== undefined);
  return { x: kept.map((p) => p[x]), y: kept.map((p) => p[y]), low: kept.map((p) => p[y + "_low"]), high: kept.map((p) => p[y + "_high"]) };
}

function traces(chart, x, y) {
  const out = [];
  for (const arm of chart.arms) {
    const shade = colour(arm), mean = curve(arm.mean, x, y);
    const banded = mean.low.length > 0 && mean.low.every((v) => v !== null && v !== undefined);
    if (banded) {
      out.push({ x: [...mean.x, ...mean.x.slice().reverse()], y: [...mean.high, ...mean.low.slice().reverse()], fill: "toself", fillcolor: faded(shade, 0.16),
        line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: arm.name });
    } else if (arm.runs.length > 1) {
      for (const run of arm.runs) {
        const line = curve(run.points, x, y);
        out.push({ x: line.x, y: line.y, mode: "lines", line: { color: faded(shade, 0.4), width: 1 }, showlegend: false, legendgroup: arm.name,
          hovertemplate: `${arm.name}, seed ${run.seed}: %{y:.3f}<extra></extra>` });
      }
    }
    out.push({ x: mean.x, y: mean.y, mode: "lines+markers", name: arm.name, legendgroup: arm.name, line: { color: shade, width: 2.5, dash: arm.dash },
      marker: { size: 5, symbol: arm.symbol }, hovertemplate: `${arm.name} (n=${arm.runs.length}): %{y:.3f}<extra></extra>` });
  }
  return out;
}

function layout(chart, x, y) {
  const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), tickfont: { size: 12 } };
  const reference = y === "success" ? chart.references : [];
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--soft"), family: "inherit", size: 13 },
    margin: { l: 52, r: 12, t: 12, b: 44 }, hovermode: "x unified", hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
    legend: { orientation: "h", y: -0.2, font: { color: css("--ink") } },
    xaxis: { ...axis, title: { text: data.axes[x], standoff: 10, font: { size: 13 } }, rangemode: "tozero" },
    yaxis: { ...axis, rangemode: "tozero", ...(y === "success" || y === "train" ? { tickformat: ".0%", range: [0, 1.02] } : {}) },
    shapes: reference.map((r) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: r.value, y1: r.value, line: { color: css("--soft"), width: 1, dash: "dot" } })),
    annotations: reference.map((r) => ({ xref: "paper", x: 1, y: r.value, xanchor: "right", yanchor: "bottom", text: r.name, showarrow: false, font: { size: 11, color: css("--soft") } })),
  };
}

function draw() {
  const x = checked("axis"), y = checked("metric");
  data.charts.forEach((chart, i) => {
    Plotly.react(`chart-${i}`, traces(chart, x, y), layout(chart, x, y), { responsive: true, displayModeBar: false });
  });
  document.querySelectorAll(".paint").forEach((mark) => {
    const arm = data.arms[mark.dataset.arm];
    if (arm) mark.style.background = colour(arm);
  });
}

document.querySelectorAll("input[name=axis], input[name=metric]").forEach((input) => input.addEventListener("change", draw));
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
const filters = document.querySelectorAll("select[data-filter]");
function choose() {
  document.querySelectorAll("details[data-env]").forEach((row) => {
    row.hidden = [...filters].some((f) => f.value && row.dataset[f.dataset.filter] !== f.value);
  });
}
filters.forEach((select) => select.addEventListener("change", choose));
choose();
draw();
document.documentElement.dataset.ready = "true";
