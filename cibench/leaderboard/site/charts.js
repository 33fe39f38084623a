/** Lines in one chart: more cannot be told apart. */
const MOST_LINES = 21;
const MOST_ROWS = 60;

const some = (count, most) => (count > most ? ` The first ${most} of ${count}; filter to choose others.` : "");

/** Accuracy against an attack's strength; the band is the interval of the line pointed at. */
function curveChart(curve, keep) {
  const all = curve.lines.filter((line) => keep(line.row));
  const lines = all.slice(0, MOST_LINES);
  if (!lines.length) return null;
  const points = (line) => curve.xs
    .map((x, i) => ({ x, share: line.shares[i] }))
    .filter(({ x, share }) => share && (!curve.log || x > 0));
  const height = 360 + legendHeight(lines.length);
  return chart({
    id: curve.id, title: curve.title, height,
    caption: `Accuracy in percent against ${curve.axis}. Point at a line for its 95 % interval;`
      + " press its name to hide it, twice to see it alone."
      + some(all.length, MOST_LINES),
    draw: () => ({
      traces: [band(), ...lines.map((line, i) => curveTrace(named(ROWS.get(line.row).row), points(line), i, lines.length))],
      layout: {
        xaxis: axis(curve.axis, ticks(curve)), yaxis: shares("accuracy, %"),
        legend: legendBelow(300), margin: { l: 50, r: 12, t: 12, b: height - 312 },
      },
    }),
    hovered: (Plotly, plot, event) => {
      const i = event.points[0].curveNumber;
      if (i) showBand(Plotly, plot, points(lines[i - 1]), COLOURS[(i - 1) % COLOURS.length]);
    },
    table: () => plainTable(curve.title, ["Defense", ...curve.xs.map((x) => `${curve.axis} ${figures(x)}`)],
      all.map((line) => [line.label, ...line.shares.map(hoverShare)])),
  });
}

const ticks = (curve) => ({
  type: curve.log ? "log" : "linear", tickvals: curve.xs, ticktext: curve.xs.map(figures),
});

function band() {
  return { x: [], y: [], fill: "toself", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
}

function showBand(Plotly, plot, points, of) {
  const back = [...points].reverse();
  const x = [...points, ...back].map((p) => p.x);
  const y = [...points.map((p) => 100 * p.share[HIGH]), ...back.map((p) => 100 * p.share[LOW])];
  Plotly.restyle(plot, { x: [x], y: [y], fillcolor: `${of}40` }, [0]);
}

function curveTrace(name, points, i, count) {
  const percents = (j) => points.map((p) => 100 * p.share[j]);
  const y = percents(VALUE);
  return {
    x: points.map((p) => p.x), y, name: label(name), mode: "lines+markers", ...style(i),
    hoverinfo: "text", text: points.map((p) => hover(safe(name), hoverShare(p.share))),
    error_y: {
      visible: count <= 4, type: "data", symmetric: false, thickness: 1, width: 3,
      array: percents(HIGH).map((high, j) => high - y[j]),
      arrayminus: percents(LOW).map((low, j) => y[j] - low),
    },
  };
}

const CERTIFIED = {
  agents: ["Certified accuracy against compromised agents", "agents compromised"],
  l2: ["Certified accuracy against l2 distance", "l2 radius"],
};

/** Certified curves of one kind: steps, never in a chart with accuracies under attack. */
function certifiedChart(kind, rows, id) {
  const all = rows.filter((row) => row.certified.some((c) => c.kind === kind));
  const found = all.slice(0, MOST_LINES);
  if (!found.length) return null;
  const of = (row) => row.certified.find((c) => c.kind === kind);
  const [title, unit] = CERTIFIED[kind];
  const height = 360 + legendHeight(found.length);
  const confidences = [...new Set(found.map((row) => sure(of(row))))].join(", ");
  return chart({
    id, title, height,
    caption: `Share of samples whose right decision is proven for at least that radius; ${confidences}.`
      + ` From clean embeddings: not to be compared with accuracy under attack.${some(all.length, MOST_LINES)}`,
    draw: () => ({
      traces: found.map((row, i) => stepTrace(named(row), of(row), i)),
      layout: {
        xaxis: axis(unit, { rangemode: "tozero", ...(kind === "agents" ? { dtick: 1 } : {}) }),
        yaxis: shares("certified, %"), legend: legendBelow(300), showlegend: true,
        margin: { l: 50, r: 12, t: 12, b: height - 312 },
      },
    }),
    table: () => plainTable(title, ["Defense", "radius: certified accuracy, %"], all.map((row) => [
      row.label, steps(of(row)).map(([r, a]) => `${figures(r)}: ${percent(a)}`).join("; "),
    ])),
  });
}

/** How sure a certificate is; one that draws nothing at random cannot err. */
const sure = (c) => (c.confidence === 1 ? "exact" : `confidence ${figures(c.confidence)}`);

const steps = (c) => c.radii.map((radius, i) => [radius, c.accuracy[i]]);

function stepTrace(name, certified, i) {
  return {
    x: certified.radii, y: certified.accuracy.map((a) => 100 * a), name: label(name),
    mode: certified.radii.length > 12 ? "lines" : "lines+markers", ...style(i),
    line: { ...style(i).line, shape: "vh" }, hoverinfo: "text",
    text: steps(certified).map(([r, a]) => hover(safe(name), `${percent(a)} % at ${figures(r)}`)),
  };
}

/** Worst cases with their intervals, best row on top. */
function forestChart(board, rows) {
  const all = rows.filter((row) => row.best);
  const found = all.slice(0, MOST_ROWS).reverse();
  if (!found.length) return null;
  const height = 110 + 24 * found.length;
  return chart({
    id: "forest", title: "Worst case with 95 % interval", height,
    caption: "Filled: over every attack known. Open diamond: the standard suite alone, where it differs."
      + ` Dotted: always answering the largest class.${some(all.length, MOST_ROWS)}`,
    draw: () => ({
      traces: [forestTrace(found), standardTrace(found)],
      layout: {
        showlegend: false, xaxis: shares("accuracy, %"),
        yaxis: axis("", rowTicks(found)),
        shapes: [{
          type: "line", x0: 100 * board.majority, x1: 100 * board.majority, yref: "paper", y0: 0, y1: 1,
          line: { color: colour("quiet"), dash: "dot", width: 1 },
        }],
      },
    }),
    table: () => plainTable("Worst case", ["Defense", "Worst case, %", "Standard suite, %"], all.map((row) => [
      row.label, hoverShare(row.best), row.standard ? percent(row.standard[VALUE]) : NONE,
    ])),
  });
}

const rowTicks = (rows) => ({
  tickvals: rows.map((_, i) => i), ticktext: rows.map((row) => label(named(row), innerWidth < 600 ? 18 : 40)),
  range: [-0.7, rows.length - 0.3], showgrid: false, zeroline: false,
});

function forestTrace(rows) {
  const values = rows.map((row) => 100 * row.best[VALUE]);
  return {
    x: values, y: rows.map((_, i) => i), mode: "markers", hoverinfo: "text",
    text: rows.map((row) => hover(safe(row.label), hoverShare(row.best))),
    marker: { size: 10, symbol: rows.map((row) => (row.oracle ? "x" : "circle")), color: rows.map((row) => COLOURS[row.role || row.oracle ? 6 : 0]) },
    error_x: {
      type: "data", symmetric: false, thickness: 1.5, width: 4, color: colour("quiet"),
      array: rows.map((row, i) => 100 * row.best[HIGH] - values[i]),
      arrayminus: rows.map((row, i) => values[i] - 100 * row.best[LOW]),
    },
  };
}

function standardTrace(rows) {
  const lower = rows.map((row, i) => ({ row, i })).filter(({ row }) =>
    row.standard && row.standard[VALUE] !== row.best[VALUE]);
  return {
    x: lower.map(({ row }) => 100 * row.standard[VALUE]), y: lower.map(({ i }) => i),
    mode: "markers", hoverinfo: "text", marker: { size: 10, symbol: "diamond-open", color: COLOURS[3] },
    text: lower.map(({ row }) => hover(safe(row.label), `standard suite: ${hoverShare(row.standard)}`)),
  };
}
