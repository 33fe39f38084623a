/** Rows drawn at first: more would delay the page, and a button shows the rest. */
const FIRST_ROWS = 100;

function boardView(state) {
  const board = boardOf(state);
  const columns = boardColumns(board);
  const present = Object.keys(GROUPS).filter((g) => columns.some((c) => c.group === g));
  const boards = switchBoard();
  const form = filterForm(board, present);
  const head = el("thead", {});
  const body = el("tbody", {});
  const more = el("button", { type: "button", class: "more", hidden: true, onclick: showAll });
  let most = FIRST_ROWS;
  let headFor = null;
  let last = state;

  const table = el("table", { class: "board", id: "table" },
    el("caption", {}, el("span", {}, `Accuracy in percent over ${board.n} test samples, its 95 % interval beneath. `
      + "Ranked by the worst case. Press a column's name to sort.")), head, body);
  const node = el("section", { "aria-labelledby": "heading" },
    el("h2", { id: "heading", tabindex: "-1" }, foreign(board.title)),
    el("div", { class: "switch" }, boards.node,
      el("a", { href: address({ view: "charts", id: board.id }) }, "Charts of this board")),
    leaders(board), measured(board), form.node,
    el("div", { class: "wide main", tabindex: "0", role: "region", "aria-label": "Leaderboard" }, table),
    more, legend(board));

  function update(now) {
    last = now;
    boards.update(now);
    form.update(now);
    const hide = hidden(now);
    const visible = columns.filter((c) => !hide.has(c.group));
    const rows = sorted(filtered(board, now), columns, now);
    if (headFor !== now.hide) {
      head.replaceChildren(...headRows(visible));
      headFor = now.hide;
    }
    markSorted(head, visible, now);
    body.replaceChildren(...rows.slice(0, most).map((row) => bodyRow(row, visible)));
    if (!rows.length) {
      body.append(el("tr", {}, el("td", { colspan: visible.length }, "No row matches the filters.")));
    }
    more.hidden = rows.length <= most;
    more.textContent = `Show all ${rows.length} rows`;
    const by = columns.find((c) => c.key === now.sort);
    const order = by ? `, by ${by.title}, ${now.dir === "desc" ? "descending" : "ascending"}` : "";
    announce(`${rows.length} of ${board.rows.length} rows${order}`);
  }

  function showAll() {
    most = Infinity;
    update(last);
  }

  return { node, update, title: board.title };
}

function headRows(columns) {
  const runs = [];
  for (const c of columns) {
    if (runs.length > 1 && runs.at(-1).group === c.group) runs.at(-1).count += 1;
    else runs.push({ group: c.group, count: 1 });
  }
  const top = el("tr", { class: "groups" }, runs.map(({ group, count }) =>
    group
      ? el("th", { scope: "colgroup", colspan: count, class: `start ${group}` }, GROUPS[group])
      : el("td", { colspan: count })));
  return [top, el("tr", {}, columns.map((c, i) => headCell(c, starts(columns, i))))];
}

const starts = (columns, i) => i > 0 && columns[i].group !== columns[i - 1].group;

function headCell(c, start) {
  const press = () => {
    const now = readState();
    const other = c.first === "asc" ? "desc" : "asc";
    change({ sort: c.key, dir: now.sort === c.key && now.dir === c.first ? other : c.first });
  };
  return el("th", { scope: "col", "data-key": c.key, class: `${c.look} ${start ? "start" : ""} ${c.group}` },
    el("button", { type: "button", onclick: press, title: c.hint || null },
      c.foreign ? foreign(clipped(c.title, 30)) : c.title,
      el("span", { class: "arrow", "aria-hidden": "true" })));
}

function markSorted(head, columns, state) {
  for (const th of head.querySelectorAll("th[data-key]")) {
    const active = th.dataset.key === state.sort;
    if (active) th.setAttribute("aria-sort", state.dir === "desc" ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
    th.querySelector(".arrow").textContent = active ? (state.dir === "desc" ? " ▼" : " ▲") : "";
  }
}

function bodyRow(row, columns) {
  const kind = row.role || (row.oracle ? "oracle" : row.best ? "" : "failed");
  return el("tr", { class: kind, "data-row": row.id }, columns.map((c, i) => {
    const content = [c.cell(row)].flat(3).filter((x) => x !== null && x !== undefined);
    if (c.key === "defense") return el("th", { scope: "row", class: "text" }, content);
    return el("td", { class: `${c.look} ${starts(columns, i) ? "start" : ""} ${c.group}` }, content);
  }));
}

/** Leaders named at most; their number is told. */
const MOST_LEADERS = 6;

/** Who wins, in a sentence: one row, or all that the rank intervals leave in question. */
function leaders(board) {
  const first = board.rows.filter((row) => row.rank?.[0] === 1);
  if (!first.length) return el("p", { class: "leaders" }, "No row is ranked.");
  const names = first.slice(0, MOST_LEADERS).map((row, i) => [
    i ? ", " : "", defenseLink(row.id, foreign(clipped(row.label, 40))), ` ${percent(row.best[VALUE])} %`,
  ]);
  const rest = first.length > MOST_LEADERS ? ` and ${first.length - MOST_LEADERS} more` : "";
  const says = first.length === 1
    ? [el("b", {}, "First in the worst case: "), names,
      first[0].rank[1] === 1 ? ", told apart from every other row." : "."]
    : [el("b", {}, `A tie of ${first.length} for the first place: `), names, rest,
      ". Their rank intervals all reach 1."];
  const weak = first.every((row) => row.best[VALUE] <= board.majority);
  return el("p", { class: "leaders" }, says.flat(3), weak
    ? ` Always answering the largest class would be right as often or more: ${percent(board.majority)} %.` : null);
}

/** What a number of this board is: protocol, threat, data, statistics, how to object. */
function measured(board) {
  const facts = [
    ["Data set", board.dataset], ["Fingerprint", board.fingerprint],
    ["Embedding", board.embedding], ["Device", board.device],
    ["Protocol", `version ${board.protocol}`],
    ["Compromised agents", board.rule], ["Target", board.target],
    ["Budget", board.budget === null ? "none: anything may be sent" : figures(board.budget)],
    ["Agents", board.agents.join(", ")],
    ["Classes", `${board.classes.length}: ${clipped(board.classes.join(", "), 200)}`],
    ["Largest class", `${percent(board.majority)} % of the samples`],
    ["Test samples", `${board.n}${board.series ? ", consecutive in time" : ""}`],
    ["Persons", board.personal ? "data of persons; the records hold none of it" : "no data of persons"],
    ["Seeds", board.seeds.join(", ")], ["Newest record", board.date],
  ];
  return el("div", { class: "measured" },
    el("p", { class: "threat" }, board.threat.map((sentence) => [foreign(sentence), " "])),
    el("details", {}, el("summary", {}, "How this board was measured"),
      factList(facts), el("p", {}, foreign(board.intervals)),
      board.notes.length ? el("ul", {}, board.notes.map((note) => el("li", {}, foreign(note)))) : null,
      el("p", {}, el("a", { href: "#/about" }, "How to read, reproduce and challenge a number"))));
}

function factList(facts) {
  return el("dl", { class: "facts" }, facts.map(([name, value]) => [
    el("dt", {}, name), el("dd", {}, value instanceof Node ? value : foreign(value)),
  ]));
}

/** All that chips and short headings mean, for those who cannot hover. */
function legend(board) {
  const flags = [...new Set([...board.rows, ...board.columns].flatMap((part) => part.flags))].sort();
  const kinds = new Set(board.rows.map((row) => row.role));
  const marksOf = Object.keys(ROLES).filter((name) =>
    kinds.has(name) || (name === "oracle" && board.rows.some((row) => row.oracle)));
  const list = (items) => el("dl", { class: "legend" }, items.map(([term, meaning]) => [
    el("dt", {}, term), el("dd", {}, foreign(meaning)),
  ]));
  const part = (title, items) => items.length ? [el("h4", {}, title), list(items)] : null;
  return el("section", { class: "legends", "aria-labelledby": "legend" },
    el("h3", { id: "legend" }, "What the words mean"),
    part("Columns", [
      ["Rank", "95 % interval of the rank: 1–4 means the first to the fourth place. Rows whose intervals overlap are not told apart."],
      ["Worst case", "Share of samples decided rightly without attack and under every attack known. This number is ranked."],
      ["Standard suite", "The same over the suite's attacks: the number before any stronger attack was found."],
      ["To the best", "Paired difference to the best row, in points, with its interval; p of McNemar's exact test, the largest over seeds, adjusted for all rows of the board."],
      ["Attack families", "The lowest accuracy over a family's variants; each variant is on the defense's page."],
      ["Certified", "Proven, from clean embeddings; never to be compared with an accuracy under attack."],
      ["± (Seeds)", "Standard deviation of the worst case over seeds, in points."],
    ]),
    part("Rows", marksOf.map((name) => [chip(name, "", name), ROLES[name]])),
    part("Adaptive", Object.entries(ADAPTIVE).map(([kind, [name, meaning]]) => [chip(name, "", kind), meaning])),
    part("Verified", Object.entries(BADGES).map(([name, meaning]) => [chip(name, "", "badge"), meaning])),
    part("Flags", flags.map((flag) => [chip(flag, "", "flag"), DATA.flags[flag] ?? "no meaning given"])));
}
