function chartsView(state) {
  const board = boardOf(state);
  const boards = switchBoard();
  const form = filterForm(board);
  const place = el("div", { class: "charts" });
  let drawn = [];
  let rowsDrawn = null;

  const node = el("section", { "aria-labelledby": "heading" },
    el("h2", { id: "heading", tabindex: "-1" }, "Charts: ", foreign(board.title)),
    el("div", { class: "switch" }, boards.node,
      el("a", { href: address({ view: "board", id: board.id }) }, "Table of this board")),
    form.node, place);

  function update(now) {
    boards.update(now);
    form.update(now);
    const rows = filtered(board, now);
    announce(`${rows.length} of ${board.rows.length} rows in the charts`);
    const names = rows.map((row) => row.id).join();
    if (names === rowsDrawn) return;
    rowsDrawn = names;
    leave();
    drawn = chartsOf(board, rows);
    place.replaceChildren(...drawn.map((c) => c.node));
    if (!drawn.length) place.append(el("p", {}, "No row matches the filters."));
    showInTurn(drawn);
  }

  function leave() {
    drawn.forEach((c) => c.purge());
    drawn = [];
  }

  return { node, update, leave, title: `Charts: ${board.title}` };
}

/** One after the other, so that the page answers between two charts. */
async function showInTurn(charts) {
  for (const c of charts) {
    await c.show();
    await new Promise((go) => setTimeout(go));
  }
}

/** The charts of a board, of these rows alone; a curve knows the same defense by its id. */
function chartsOf(board, rows) {
  const names = new Set(rows.map(identity));
  const keep = (id) => ROWS.has(id) && names.has(identity(ROWS.get(id).row));
  const curves = DATA.curves.filter((curve) => curve.dataset === board.dataset);
  return [
    forestChart(board, rows),
    ...curves.map((curve) => curveChart(curve, keep)),
    attackHeatmap(board, rows),
    agentHeatmap(board, rows),
    certifiedChart("agents", rows, "certified-agents"),
    certifiedChart("l2", rows, "certified-l2"),
  ].filter(Boolean);
}

const identity = (row) => [row.spec, row.dist, row.version].join("\n");
