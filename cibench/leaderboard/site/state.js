/** What the page shows is the address after `#`, so that links and Back work. */
const DEFAULTS = {
  sort: "", dir: "asc", q: "", badge: "", dist: "", adaptive: "", oracle: "", hide: "",
};

function readState() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [view = "", raw = ""] = path.split("/");
  const state = { view: view || "board", id: unescaped(raw), ...DEFAULTS };
  const values = new URLSearchParams(query);
  for (const key of Object.keys(DEFAULTS)) {
    if (values.has(key)) state[key] = values.get(key);
  }
  if (state.dir !== "desc") state.dir = "asc";
  if (["board", "charts"].includes(state.view) && !state.id && DATA.boards.length) {
    state.id = DATA.boards[0].id;
  }
  return state;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

function address(state) {
  const values = new URLSearchParams();
  for (const [key, usual] of Object.entries(DEFAULTS)) {
    if (state[key] !== undefined && state[key] !== usual) values.set(key, state[key]);
  }
  const id = state.id ? `/${encodeURIComponent(state.id)}` : "";
  return `#/${state.view}${id}${values.size ? `?${values}` : ""}`;
}

/** Changes part of the state; typing replaces the address, all else can be undone by Back. */
function change(part, { replace = false } = {}) {
  const next = address({ ...readState(), ...part });
  if (next === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", next);
  render();
}

const boardOf = (state) => DATA.boards.find((board) => board.id === state.id);
const defenseLink = (id, ...children) =>
  el("a", { href: address({ view: "defense", id }) }, ...children);
