"use strict";
// Starts the page: inflate the data, load the plotting library, draw.
let page = null;

async function start() {
  page = JSON.parse(await inflate("data"));
  const repaint = [];
  if ($("episodes")) {
    const viewer = new Viewer(JSON.parse(await inflate("index")));
    repaint.push(() => viewer.paint());
  }
  if ($("time")) {
    document.head.append(make("script", { text: await inflate("plotly") }));
    repaint.push(startCharts());
  }
  const refresh = () => repaint.forEach((work) => work());
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    refresh();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
}

start().then(
  () => { document.documentElement.dataset.ready = "true"; },
  (error) => {
    $("broken").hidden = false;
    $("broken").append(` (${error.message})`);
    throw error;
  },
);
