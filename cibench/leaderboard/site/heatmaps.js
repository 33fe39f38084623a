/** Accuracies as colours, with the number in each cell. */
function heatmap({ id, title, caption, rows, heads, share, note, marked = () => false }) {
  const found = rows.slice(0, MOST_ROWS).reverse();
  if (!found.length || !heads.length) return null;
  const longest = Math.max(...heads.map((head) => head.length));
  const room = longest > 8 ? 225 : 30;
  const words = (row, j) => {
    const value = share(row, j);
    return value ? hoverShare(value) : note(row, j) || "no number";
  };
  return chart({
    id, title, caption: caption + some(rows.length, MOST_ROWS),
    height: room + 60 + 24 * found.length, width: 330 + 44 * heads.length,
    draw: () => ({
      traces: [{
        type: "heatmap", x: heads.map((_, j) => j), y: found.map((_, i) => i), xgap: 1, ygap: 1,
        z: found.map((row) => heads.map((_, j) => (share(row, j) ? 100 * share(row, j)[VALUE] : null))),
        text: found.map((row) => heads.map((_, j) => (share(row, j)
          ? `${marked(row, j) ? "★" : ""}${(100 * share(row, j)[VALUE]).toFixed(0)}` : ""))),
        texttemplate: "%{text}", hoverinfo: "text", hovertext: found.map((row) =>
          heads.map((head, j) => hover(safe(named(row)), safe(head), safe(words(row, j))))),
        colorscale: "Cividis", zmin: 0, zmax: 100, showscale: false,
      }],
      layout: {
        xaxis: axis("", {
          tickvals: heads.map((_, j) => j), ticktext: heads.map((head) => label(head, 36)),
          tickangle: longest > 8 ? -50 : 0, automargin: false, side: "top", showgrid: false, zeroline: false,
        }),
        yaxis: axis("", rowTicks(found)), margin: { l: 50, r: longest > 8 ? 150 : 12, t: room, b: 8 },
      },
    }),
    table: () => plainTable(title, ["Defense", ...heads],
      rows.map((row) => [row.label, ...heads.map((_, j) => words(row, j))])),
  });
}

function attackHeatmap(board, rows) {
  return heatmap({
    id: "attacks", title: "Defense by attack", rows, heads: board.columns.map((c) => c.label),
    caption: "Accuracy in percent: dark is low. Empty cells have no number; their reason is in the table.",
    share: (row, j) => shareOf(row.results[j]), note: (row, j) => troubleOf(row.results[j]),
  });
}

function agentHeatmap(board, rows) {
  /** The lowest, unless others are as low. */
  const weakest = (row) => {
    const values = row.agents.map((share) => share?.[VALUE] ?? Infinity);
    const lowest = Math.min(...values);
    return values.filter((value) => value === lowest).length === 1 ? values.indexOf(lowest) : -1;
  };
  return heatmap({
    id: "agents", title: "Which agent hurts most",
    rows: rows.filter((row) => row.agents.some(Boolean)), heads: board.agents,
    caption: "Worst case in percent over the samples where that agent is among the compromised."
      + " ★ marks the agent that hurts a defense most.",
    share: (row, j) => row.agents[j], note: () => "",
    marked: (row, j) => j === weakest(row),
  });
}

/** One defense's agents, most harmful on top. */
function agentChart(board, row) {
  const found = board.agents.map((agent, i) => ({ agent, share: row.agents[i] }))
    .filter(({ share }) => share)
    .sort((a, b) => b.share[VALUE] - a.share[VALUE]);
  if (!found.length) return null;
  const values = found.map(({ share }) => 100 * share[VALUE]);
  return chart({
    id: "agent", title: "Which agent hurts most", height: 80 + 26 * found.length,
    caption: "Worst case over the samples where that agent is among the compromised, with 95 % interval.",
    draw: () => ({
      traces: [{
        x: values, y: found.map((_, i) => i), mode: "markers", hoverinfo: "text",
        text: found.map(({ agent, share }) => hover(safe(agent), hoverShare(share))),
        marker: { size: 10, color: COLOURS[0] },
        error_x: {
          type: "data", symmetric: false, thickness: 1.5, width: 4, color: colour("quiet"),
          array: found.map(({ share }, i) => 100 * share[HIGH] - values[i]),
          arrayminus: found.map(({ share }, i) => values[i] - 100 * share[LOW]),
        },
      }],
      layout: {
        showlegend: false, xaxis: shares("accuracy, %"),
        yaxis: axis("", rowTicks(found.map(({ agent }) => ({ label: agent, role: "", oracle: false })))),
      },
    }),
    table: () => plainTable("Worst case by agent", ["Agent", "Accuracy, %"],
      found.map(({ agent, share }) => [agent, hoverShare(share)]).reverse()),
  });
}
