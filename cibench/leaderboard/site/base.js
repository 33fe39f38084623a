const DATA = JSON.parse(document.getElementById("data").textContent);
const ROWS = new Map();
for (const board of DATA.boards) {
  for (const row of board.rows) ROWS.set(row.id, { row, board });
}

const VALUE = 0, LOW = 1, HIGH = 2, COUNT = 3, SPREAD = 4;
const NONE = "—";

/** An element; texts become text nodes, so no data can become markup. */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((c) => c !== null && c !== undefined));
  return node;
}

/** Foreign text: its direction cannot leak into what stands around it. */
const foreign = (text, attributes = {}) => el("bdi", attributes, text);

const unseen = (text) => el("span", { class: "unseen" }, text);

function outside(address, ...children) {
  if (!/^https?:\/\//.test(address)) return el("span", {}, ...children);
  return el("a", { href: address, rel: "noopener noreferrer nofollow" }, ...children);
}

const percent = (share) => (100 * share).toFixed(1);
const interval = (share) => `${percent(share[LOW])}–${percent(share[HIGH])}`;
const clipped = (text, most) =>
  text.length > most ? `${text.slice(0, most - 1)}…` : text;

function figures(value) {
  if (value === null || value === undefined) return NONE;
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) {
    return value.toExponential(1);
  }
  return String(Number(value.toPrecision(3)));
}

function chance(p) {
  return p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`;
}

/** The share of a result, whether or not the result says more than that. */
const shareOf = (result) => (Array.isArray(result) ? result : result?.share ?? null);
const troubleOf = (result) => (Array.isArray(result) ? "" : result?.trouble ?? "");

const ROLES = {
  undefended: "The fusion center without any defense.",
  genie: "Told which agents are compromised; it leaves them out.",
  oracle: "Told what no defense can know; never ranked.",
};
const ADAPTIVE = {
  adaptive: ["adaptive", "Attacked by an adversary who knows the defense."],
  exact: ["exact", "The attack tries all there is, so that none is stronger."],
  misled: [
    "misled",
    "An attack that does not know the defense breaks more: gradients mislead.",
  ],
  none: ["not adaptive", "No attack on it knew the defense: an upper bound."],
};
const KNOWLEDGE = {
  oblivious: "only what its own agents sense; no model.",
  query: "also answers of the defended fusion center.",
  fusion: "also the undefended fusion center, with gradients.",
  adaptive: "the whole defended pipeline, with gradients.",
};
const BADGES = {
  claimed: "The records agree with themselves; nothing was computed again.",
  "re-scored": "What the attacks sent was replayed through the defense.",
  reproduced: "Cells were run again with the same results.",
};

const chip = (text, meaning, kind = "") =>
  el("span", { class: `chip ${kind}`, title: meaning }, text);

function marks(row) {
  const found = [];
  if (row.role && row.role !== row.label) {
    found.push(chip(row.role, ROLES[row.role], row.role));
  }
  if (row.oracle) found.push(chip("oracle", ROLES.oracle, "oracle"));
  return found;
}

/** A row's name where no chip can stand beside it, as in charts. */
function named(row) {
  if (row.role === "undefended") return `${row.label} (undefended)`;
  return row.oracle ? `${row.label} (oracle)` : row.label;
}

/** A table of texts: for screen readers, and for reading numbers off a chart. */
function plainTable(caption, head, rows) {
  const cells = (row) =>
    row.map((cell, i) =>
      el(i ? "td" : "th", i ? {} : { scope: "row" }, cell instanceof Node ? cell : foreign(cell)),
    );
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, foreign(caption)),
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, foreign(text))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row)))),
    ),
  );
}

function announce(text) {
  document.getElementById("status").textContent = text;
}
