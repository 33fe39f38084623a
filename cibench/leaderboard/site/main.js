const VIEWS = { board: boardView, charts: chartsView, defense: defenseView };

let current = { key: null, view: null };

/** Draws what the address says; within one view only what changed. */
function render() {
  const state = readState();
  const key = `${state.view}/${state.id}`;
  const first = current.key === null;
  const about = document.getElementById("about");
  about.hidden = state.view !== "about";
  if (current.key !== key) {
    current.view?.leave?.();
    current = { key, view: open(state) };
    document.getElementById("view").replaceChildren(current.view.node);
    document.title = `${clipped(current.view.title, 60)} · ${DATA.title}`;
    markPage(state);
    if (!first) arrive(state);
  }
  current.view.update?.(state);
}

function open(state) {
  if (state.view === "about") return { node: el("div"), title: "About", update: () => announce("") };
  const known = state.view === "defense" ? ROWS.has(state.id) : Boolean(boardOf(state));
  if (VIEWS[state.view] && known) return VIEWS[state.view](state);
  const none = DATA.boards.length === 0;
  return {
    title: none ? "No board" : "Not found",
    node: el("section", {}, el("h2", { id: "heading", tabindex: "-1" }, none ? "No board yet" : "Not found"),
      el("p", {}, none ? "No entry has been reviewed." : "This address names no board and no defense. ",
        el("a", { href: "#/board" }, "To the first board"))),
  };
}

/** Puts keyboard and screen reader at the start of a view that was just opened. */
function arrive(state) {
  const heading = document.getElementById(state.view === "about" ? "about-heading" : "heading");
  heading?.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function markPage(state) {
  const board = state.view === "defense" ? ROWS.get(state.id)?.board.id : boardOf(state)?.id;
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (board && link.dataset.view !== "about") {
      link.href = address({ view: link.dataset.view, id: board });
    }
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const THEMES = ["auto", "light", "dark"];

function setTheme(name) {
  document.documentElement.style.colorScheme = name === "auto" ? "" : name;
  const button = document.getElementById("theme");
  button.textContent = `Theme: ${name}`;
  button.dataset.theme = name;
  try {
    localStorage.setItem("cibench-theme", name);
  } catch {
    // A browser may refuse to store anything for a file.
  }
}

function storedTheme() {
  try {
    const name = localStorage.getItem("cibench-theme");
    return THEMES.includes(name) ? name : "auto";
  } catch {
    return "auto";
  }
}

/** Charts take their colours when they are drawn. */
function redraw() {
  if (!["charts", "defense"].includes(readState().view)) return;
  current.view?.leave?.();
  current = { key: "", view: null };
  const at = scrollY;
  const active = document.activeElement?.id;
  render();
  document.getElementById(active)?.focus({ preventScroll: true });
  scrollTo(0, at);
}

document.getElementById("theme").addEventListener("click", (event) => {
  const now = THEMES.indexOf(event.currentTarget.dataset.theme);
  setTheme(THEMES[(now + 1) % THEMES.length]);
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
addEventListener("hashchange", render);
setTheme(storedTheme());
render();
performance.mark("cibench-interactive");
