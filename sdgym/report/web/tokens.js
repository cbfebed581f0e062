"use strict";
// The tokens of one episode: colour, reading, and the way from one disagreement to the next.
const LIMITS = { ratio: 3, student: 5, advantage: 2 }; // nats, nats, advantage: where the colour is full
const COLOURS = { // blue for "more", orange for "less": told apart by every kind of colour vision
  light: { more: [0, 114, 178], less: [213, 94, 0] },
  dark: { more: [86, 180, 233], less: [240, 138, 74] },
};

/** The values of one episode as columns over its tokens; null where there is none. */
function columnsOf(told, teacher) {
  const student = (told.s || []).map((v) => (v === null ? null : v / 100));
  const other = teacher ? teacher.l.map((v) => (v === null ? null : v / 100)) : student.map(() => null);
  const advantage = told.v ? told.v.flatMap(([value, times]) => Array(times).fill(value)) : student.map(() => null);
  return { student, teacher: other, advantage, ratio: student.map((v, i) => (v === null || other[i] === null ? null : other[i] - v)) };
}

/** Tokens in the order of their disagreement, largest first. */
function byDisagreement(columns) {
  const found = columns.ratio.map((_, i) => i).filter((i) => columns.ratio[i] !== null);
  return found.sort((a, b) => Math.abs(columns.ratio[b]) - Math.abs(columns.ratio[a]) || a - b);
}

function shade(mode, value) {
  if (mode === "none" || value === null || value === undefined) return "";
  const strength = Math.min(1, Math.abs(value) / LIMITS[mode]) ** 0.8 * 0.72;
  const { more, less } = COLOURS[isDark() ? "dark" : "light"];
  return `rgba(${(mode === "student" ? less : value > 0 ? more : less).join(",")},${strength.toFixed(3)})`;
}

function paint(columns, mode) {
  for (const node of all("#episode .token")) node.style.backgroundColor = shade(mode, columns[mode] && columns[mode][node.dataset.token]);
  const limit = LIMITS[mode], low = mode === "student" ? 0 : -limit, high = mode === "student" ? -limit : limit;
  $("scale").hidden = mode === "none";
  if (mode === "none") return;
  const stops = [0, 1, 2, 3, 4, 5, 6].map((i) => shade(mode, low + (i / 6) * (high - low)) || "transparent");
  $("scale-bar").style.backgroundImage = `linear-gradient(90deg, ${stops.join(", ")})`;
  $("scale-low").textContent = signed(low, 0);
  $("scale-high").textContent = `${signed(high, 0)}${mode === "student" ? " and less likely" : " and beyond"}`;
}

const share = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(2)} %`;

/** One line about a token. */
function reading(told, columns, token) {
  const parts = [`token ${token + 1} of ${told.p.length}: ${JSON.stringify(told.p[token])}`];
  const { student, teacher, ratio, advantage } = columns;
  if (student[token] !== null) parts.push(`student ${signed(student[token])} (${share(student[token])})`);
  if (teacher[token] !== null) parts.push(`teacher ${signed(teacher[token])} (${share(teacher[token])})`);
  if (ratio[token] !== null) parts.push(`log-ratio ${signed(ratio[token])}`);
  if (advantage[token] !== null && advantage[token] !== undefined) parts.push(`advantage ${signed(advantage[token], 3)}`);
  return parts.join("  ·  ");
}

/** The tokens of one turn as spans; the first token of the episode takes part in the tab order. */
function tokenLine(told, start, count) {
  const line = make("div", { className: "action tokens", role: "group", "aria-label": "The policy's tokens; arrow keys move between them" });
  for (let i = start; i < start + count; i++) {
    const piece = told.p[i];
    line.append(make("span", { className: "token", text: piece.replace(/\n/g, "⏎\n") || "∅", "data-token": i, tabindex: i ? "-1" : "0" }));
  }
  return line;
}

/** Focus on a token of the open episode. */
function selectToken(token, focus) {
  const nodes = all("#episode .token");
  for (const node of nodes) {
    const chosen = Number(node.dataset.token) === token;
    node.classList.toggle("chosen", chosen);
    node.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) {
      node.focus({ preventScroll: true });
      node.scrollIntoView({ block: "nearest" });
    }
  }
}
