"use strict";
// The list of episodes: filters, order, and rows that exist only while they are in sight.
const ROW = 46; // pixels; the style sheet says the same
const FILTERS = ["env", "model", "arm", "seed", "step", "result", "stop"];

/** An environment at two levels is two worlds. */
const worldOf = (run) => `${run.env} · ${run.level}`;

class EpisodeList {
  constructor(index, open) {
    this.index = index;
    this.open = open;
    this.columns = index.columns;
    this.shown = [];
    this.place = 0;
    this.box = $("episodes");
    this.spacer = $("episodes-all");
    this.fill();
    const draw = onceAFrame(() => this.draw());
    this.box.addEventListener("scroll", draw);
    new ResizeObserver(draw).observe(this.box);
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-place]");
      if (row) this.go(Number(row.dataset.place));
    });
    for (const name of [...FILTERS, "order"]) $(`by-${name}`).addEventListener("change", () => this.choose());
    $("by-task").addEventListener("input", onceAFrame(() => this.choose()));
  }

  run(i) {
    return this.index.runs[this.columns.run[i]];
  }

  value(name, i) {
    const { columns, index } = this;
    if (name === "result") return columns.reward[i] === null ? "masked" : columns.success[i] ? "solved" : "unsolved";
    if (name === "stop") return index.names.stop[columns.stop[i]];
    if (name === "step") return String(columns.step[i]);
    if (name === "env") return worldOf(this.run(i));
    return String(this.run(i)[name]);
  }

  /** Offer what occurs. */
  fill() {
    const count = this.columns.run.length;
    for (const name of FILTERS) {
      const found = new Set();
      for (let i = 0; i < count; i++) found.add(this.value(name, i));
      const values = [...found];
      if (name === "step" || name === "seed") values.sort((a, b) => a - b);
      $(`by-${name}`).append(...values.map((value) => make("option", { text: value, value })));
    }
  }

  /** Apply filters and order; the first episode of the new list is opened. */
  choose() {
    this.jumped = false;
    const wanted = FILTERS.map((name) => [name, $(`by-${name}`).value]).filter(([, value]) => value);
    const words = $("by-task").value.trim().toLowerCase(), { columns, index } = this;
    this.shown = [];
    for (let i = 0; i < columns.run.length; i++) {
      if (!wanted.every(([name, value]) => this.value(name, i) === value)) continue;
      if (words && !`${index.names.task[columns.task[i]]} ${columns.preview[i]}`.toLowerCase().includes(words)) continue;
      this.shown.push(i);
    }
    const size = (i) => (columns.peak[i] === null ? -1 : Math.abs(columns.peak[i]));
    const orders = { disagreement: (a, b) => size(b) - size(a) || a - b, reward: (a, b) => columns.reward[b] - columns.reward[a] || a - b,
      length: (a, b) => columns.tokens[b] - columns.tokens[a] || a - b };
    const order = orders[$("by-order").value];
    if (order) this.shown.sort(order);
    const solved = this.shown.filter((i) => columns.success[i]).length;
    $("found").textContent = `${whole(this.shown.length)} of ${whole(columns.run.length)} episodes, ${whole(solved)} solved`;
    this.spacer.style.height = `${this.shown.length * ROW}px`;
    this.box.scrollTop = 0;
    this.go(0);
  }

  /** Draw the rows in sight and a few around them. */
  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const last = Math.min(this.shown.length, first + Math.ceil(this.box.clientHeight / ROW) + 8);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(this.row(place));
    this.spacer.replaceChildren(...rows);
    this.box.setAttribute("aria-activedescendant", this.shown.length ? `row-${this.place}` : "");
  }

  row(place) {
    const i = this.shown[place], { columns, index } = this, run = this.run(i), result = this.value("result", i);
    const marks = { solved: "✓", unsolved: "✗", masked: "–" };
    const facts = [run.arm, `step ${columns.step[i]}`, `seed ${run.seed}`, ...(columns.peak[i] === null ? [] : [`Δ ${signed(columns.peak[i] / 100, 1)}`])];
    const node = make("div", { className: "row", role: "option", id: `row-${place}`, "data-place": place, "aria-selected": String(place === this.place),
        "aria-setsize": this.shown.length, "aria-posinset": place + 1, title: index.names.task[columns.task[i]] },
      make("span", { className: `mark ${result}`, text: marks[result], title: result }),
      make("span", { className: "first", text: columns.preview[i] || "(nothing written)" }),
      make("span", { className: "second" }, make("i", { className: `swatch arm-${page.arms[run.arm]}` }), facts.join(" · ")));
    node.style.top = `${place * ROW}px`;
    return node;
  }

  /** Make `place` the current one, bring it into sight, and open its episode. */
  go(place, token) {
    this.place = Math.max(0, Math.min(this.shown.length - 1, place));
    const top = this.place * ROW, { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    if (top + ROW > scrollTop + clientHeight) this.box.scrollTop = top + ROW - clientHeight;
    this.draw();
    this.open(this.shown.length ? this.shown[this.place] : null, token);
  }

  key(event) {
    const leap = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: leap, PageUp: -leap, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.go(this.place + steps[event.key]);
  }

  /** Go to the token of the largest disagreement; asked again, to that of the next episode in this order. */
  jump() {
    const ordered = $("by-order").value === "disagreement" && this.jumped;
    if (!ordered) {
      $("by-order").value = "disagreement";
      this.choose();
    }
    this.jumped = true;
    const next = ordered ? this.place + 1 : 0, i = this.shown[next];
    const place = i === undefined || this.columns.peak[i] === null ? 0 : next;
    if (this.shown.length) this.go(place, this.columns.peak[this.shown[place]] === null ? undefined : this.columns.at[this.shown[place]]);
  }
}
