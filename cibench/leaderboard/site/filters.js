/** Rows that the filters leave, in the board's own order. */
function filtered(board, state) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return board.rows.filter((row) => {
    if (state.badge && row.badge !== state.badge) return false;
    if (state.dist && row.dist !== state.dist) return false;
    if (state.adaptive && row.adaptive === "none") return false;
    if (state.oracle && row.oracle) return false;
    return words.every((word) => haystack(row).includes(word));
  });
}

const HAYSTACKS = new Map();

function haystack(row) {
  if (!HAYSTACKS.has(row)) {
    const parts = [row.label, row.spec, row.dist, row.version, row.author, row.entry,
      row.badge, row.role, row.date, ADAPTIVE[row.adaptive][0], ...row.flags];
    HAYSTACKS.set(row, parts.join("\n").toLowerCase());
  }
  return HAYSTACKS.get(row);
}

/** Rows in the order asked for; rows without a value come last in both directions. */
function sorted(rows, columns, state) {
  const by = columns.find((c) => c.key === state.sort);
  if (!by) return rows;
  const sign = state.dir === "desc" ? -1 : 1;
  const compare = by.kind === "text"
    ? (a, b) => COLLATOR.compare(a, b)
    : (a, b) => a - b;
  const keyed = rows.map((row) => [by.value(row), row]);
  const absent = (value) => value === null || value === "";
  keyed.sort(([a], [b]) => {
    if (absent(a) || absent(b)) return absent(a) - absent(b);
    return sign * compare(a, b);
  });
  return keyed.map(([, row]) => row);
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

function field(label, input) {
  return el("label", { class: "field" }, el("span", {}, label), input);
}

function choice(label, key, options) {
  const input = el("select", { onchange: () => change({ [key]: input.value }) },
    options.map(([value, name]) => el("option", { value }, name)));
  return { node: field(label, input), update: (state) => { input.value = state[key]; } };
}

function tick(label, read, write) {
  const input = el("input", { type: "checkbox", onchange: () => change(write(input.checked)) });
  return {
    node: el("label", { class: "tick" }, input, label),
    update: (state) => { input.checked = read(state); },
  };
}

function switchBoard() {
  const input = el("select", { id: "board", onchange: () => change({ id: input.value, sort: "", dir: "asc" }) },
    DATA.boards.map((board) => el("option", { value: board.id }, board.title)));
  return { node: field("Board", input), update: (state) => { input.value = state.id; } };
}

function search() {
  const input = el("input", {
    type: "search", id: "search", autocomplete: "off", spellcheck: "false",
    oninput: () => change({ q: input.value }, { replace: true }),
  });
  return {
    node: field("Search", input),
    update: (state) => { if (input.value !== state.q) input.value = state.q; },
  };
}

const hidden = (state) => new Set(state.hide.split(",").filter(Boolean));

function groupTicks(groups) {
  return groups.map((group) => tick(
    GROUPS[group].replace(/ \(.*/, ""),
    (state) => !hidden(state).has(group),
    (checked) => {
      const hide = hidden(readState());
      if (checked) hide.delete(group);
      else hide.add(group);
      return { hide: [...hide].sort().join(",") };
    },
  ));
}

/** Controls above a board's table or charts. */
function filterForm(board, groups = []) {
  const distributions = [...new Set(board.rows.map((row) => row.dist))].sort();
  const parts = [
    search(),
    choice("Verified", "badge", [["", "any"], ...Object.keys(BADGES).map((b) => [b, b])]),
    choice("Distribution", "dist", [["", "any"], ...distributions.map((d) => [d, clipped(d, 40)])]),
    tick("adaptively evaluated only", (s) => Boolean(s.adaptive), (on) => ({ adaptive: on ? "only" : "" })),
    tick("hide oracle rows", (s) => Boolean(s.oracle), (on) => ({ oracle: on ? "hide" : "" })),
  ];
  const columns = groupTicks(groups);
  const reset = el("button", { type: "button", onclick: () => change(DEFAULTS) }, "Reset");
  const form = el("form", { class: "filters", role: "search", "aria-label": "Filters", onsubmit: (e) => e.preventDefault() },
    parts.map((part) => part.node), reset,
    columns.length
      ? el("fieldset", {}, el("legend", {}, "Columns"), columns.map((part) => part.node))
      : null);
  const now = readState();
  const chosen = Object.keys(DEFAULTS).some((key) => !["sort", "dir"].includes(key) && now[key]);
  const node = el("details", { class: "choose", open: chosen || innerWidth > 640 },
    el("summary", {}, columns.length ? "Filters and columns" : "Filters"), form);
  return { node, update: (state) => [...parts, ...columns].forEach((p) => p.update(state)) };
}
