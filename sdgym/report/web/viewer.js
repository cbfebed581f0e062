"use strict";
// One episode: what was read, done, paid and said; token by token.
class Viewer {
  constructor(index) {
    this.cache = new Map(); // chunk number to its episodes, the latest few
    this.told = null;
    this.list = new EpisodeList(index, (i, token) => this.open(i, token));
    this.index = index;
    all("input[name=paint]").forEach((input) => input.addEventListener("change", () => this.paint()));
    $("teacher").addEventListener("change", () => this.draw());
    $("previous").addEventListener("click", () => this.list.go(this.list.place - 1));
    $("next").addEventListener("click", () => this.list.go(this.list.place + 1));
    $("jump").addEventListener("click", () => this.list.jump());
    $("harder").addEventListener("click", () => this.step(1));
    $("softer").addEventListener("click", () => this.step(-1));
    const episode = $("episode");
    for (const kind of ["focusin", "mouseover"]) episode.addEventListener(kind, (event) => this.read(event.target));
    episode.addEventListener("keydown", (event) => this.key(event));
    episode.addEventListener("click", (event) => {
      if (event.target.dataset.token !== undefined) this.select(Number(event.target.dataset.token), true);
    });
    this.list.choose();
  }

  /** Return episode `i`, inflating its chunk if need be. */
  async fetch(i) {
    const number = Math.floor(i / this.index.perChunk);
    let chunk = this.cache.get(number);
    this.cache.delete(number);
    chunk = chunk || inflate(`chunk-${number}`).then(JSON.parse);
    this.cache.set(number, chunk);
    if (this.cache.size > 24) this.cache.delete(this.cache.keys().next().value);
    return (await chunk)[i % this.index.perChunk];
  }

  async open(i, token) {
    this.current = i;
    if (i === null) {
      this.told = null;
      $("episode").replaceChildren(make("p", { className: "soft", text: "No episode fits these filters." }));
      $("episode-title").textContent = "";
      return;
    }
    const told = await this.fetch(i);
    if (this.current !== i) return; // another one was opened meanwhile
    this.told = told;
    const names = (told.t || []).map((t, k) => make("option", { value: k, text: [t.kind, t.source].filter(Boolean).join(", ") }));
    $("teacher").replaceChildren(...names);
    $("teacher-choice").hidden = names.length < 2;
    this.draw();
    $("episode").scrollTop = 0;
    if (token !== undefined) this.select(token, true);
  }

  draw() {
    const { told, index } = this, c = index.columns, i = this.current, run = index.runs[c.run[i]];
    this.teacher = (told.t || [])[$("teacher").value || 0];
    this.columns = columnsOf(told, this.teacher);
    this.ranked = byDisagreement(this.columns);
    this.rank = -1;
    const tag = (text, kind = "") => make("span", { className: `tag ${kind}`, text });
    const masked = c.reward[i] === null, outcome = index.names.outcome[c.outcome[i]];
    $("episode-title").replaceChildren(make("i", { className: `swatch arm-${page.arms[run.arm]}` }), make("strong", { text: run.arm }),
      ` on ${worldOf(run)} · policy ${run.model} · seed ${run.seed} · step ${c.step[i]} · rollout ${c.member[i]} of task `, make("code", { text: index.names.task[c.task[i]] }),
      tag(outcome, c.success[i] ? "good" : "bad"), tag(masked ? "masked" : `reward ${+c.reward[i].toPrecision(4)}`), tag(index.names.stop[c.stop[i]]));
    $("episode").replaceChildren(this.contexts(), ...this.turns(), ...(told.error ? [make("p", { className: "down", text: `error: ${told.error}` })] : []));
    for (const id of ["jump", "harder", "softer"]) $(id).disabled = id === "jump" ? !this.index.columns.peak.some((v) => v !== null) : !this.ranked.length;
    $("reading").textContent = told.p ? "Point at a token, or move through them with the arrow keys." : "This run kept no token data.";
    all("input[name=paint]").forEach((input) => { input.disabled = input.value !== "none" && !(this.columns[input.value] || []).some((v) => v !== null); });
    this.paint();
  }

  /** Student's and teacher's reading side by side; what only the teacher read is marked. */
  contexts() {
    const { told, teacher } = this;
    if (!told.c) return null || make("span");
    const column = (title, ...parts) => make("div", {}, make("h4", { text: title }), ...parts);
    const student = told.c.map(([, text]) => make("pre", { text }));
    let other = [make("p", { className: "soft", text: "No teacher looked at this episode." })];
    if (teacher) {
      other = teacher.c.map(([token, head, own, tail]) => {
        const base = (told.c.find(([t]) => t === token) || [0, ""])[1];
        return make("pre", {}, base.slice(0, head), make("mark", { text: own }), tail ? base.slice(base.length - tail) : "");
      });
      other.push(...teacher.i.map(([token, text]) => make("pre", {}, make("span", { className: "soft", text: `before token ${token + 1}: ` }), make("mark", { text }))));
    }
    const title = teacher ? `Teacher read (${[teacher.kind, teacher.source].filter(Boolean).join(", ")})` : "Teacher";
    return make("div", { className: "contexts" }, column("Student read", ...student), column(title, ...other));
  }

  turns() {
    const { told } = this;
    let start = 0;
    return told.turns.map((turn, number) => {
      const block = make("div", { className: "turn" });
      const line = (label, node) => block.append(make("span", { text: label }), node);
      if (!told.c || number) line("observation", make("pre", { text: turn.o }));
      line(told.turns.length > 1 ? `action ${number + 1}` : "action", told.p ? tokenLine(told, start, turn.n) : make("pre", { className: "action", text: turn.a }));
      line("reward", make("div", { className: "mono", text: String(+turn.r.toPrecision(4)) }));
      for (const [kind, text, visible] of turn.f) line(visible ? `feedback (${kind})` : `feedback (${kind}), unseen`, make("pre", { text }));
      start += turn.n;
      return block;
    });
  }

  paint() {
    if (!this.told) return;
    const chosen = document.querySelector("input[name=paint]:checked");
    const usable = chosen.disabled ? all("input[name=paint]").find((input) => !input.disabled && input.value !== "none") : chosen;
    paint(this.columns, usable ? usable.value : "none");
  }

  read(node) {
    if (node.dataset && node.dataset.token !== undefined) $("reading").textContent = reading(this.told, this.columns, Number(node.dataset.token));
  }

  select(token, focus) {
    selectToken(token, focus);
    this.rank = this.ranked.indexOf(token);
    if (this.told.p) $("reading").textContent = reading(this.told, this.columns, token);
  }

  /** Move through this episode's tokens in the order of disagreement. */
  step(by) {
    if (!this.ranked.length) return;
    this.rank = Math.max(0, Math.min(this.ranked.length - 1, this.rank + by));
    this.select(this.ranked[this.rank], true);
  }

  key(event) {
    if (event.target.dataset.token === undefined) return;
    const now = Number(event.target.dataset.token), last = this.told.p.length - 1;
    const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last };
    if (event.key in moves) this.select(Math.max(0, Math.min(last, moves[event.key])), true);
    else if (event.key === "j") this.step(1);
    else if (event.key === "k") this.step(-1);
    else return;
    event.preventDefault();
  }
}
