/** Groups of columns that a reader can hide. */
const GROUPS = {
  attacks: "By attack family (worst variant)",
  certified: "Certified",
  trust: "Evaluation",
  cost: "Cost",
  source: "Provenance",
};

const small = (...children) => el("small", {}, ...children);
const missing = (why) => el("span", { class: "quiet" }, NONE, unseen(` ${why}`));

function shareCell(share, why, ...more) {
  if (!share) return [missing(why), ...more];
  return [el("b", {}, percent(share[VALUE])), small(interval(share)), ...more];
}

/** A column: how to sort by it, and what its cells show. */
function column(key, group, title, value, cell, options = {}) {
  return { key, group, title, value, cell, kind: "number", look: options.kind ?? "number", first: "asc", hint: "", ...options };
}

const accuracies = { first: "desc" };

function nameCell(row) {
  const version = [row.dist, row.version].filter(Boolean).join(" ");
  return [
    defenseLink(row.id, foreign(row.label)),
    el("span", { class: "marks" }, marks(row)),
    small(
      foreign(clipped(version, 40)),
      row.link ? [" ", outside(row.link, "link", unseen(` of ${row.label}`))] : null,
    ),
  ];
}

function rankCell(row) {
  if (!row.rank) return missing("not ranked");
  const [low, high] = row.rank;
  return low === high ? String(low) : `${low}–${high}`;
}

function worstCell(row) {
  if (row.best) return shareCell(row.best, "", small(`n ${row.best[COUNT]}`));
  return [missing("no aggregate"), small(foreign(clipped(row.trouble || "no aggregate", 90)))];
}

function standardCell(row) {
  const names = [...new Set(row.lowered.map((item) => item.author))];
  const why = names.length
    ? small("lowered by ", foreign(clipped(names.join(", "), 50)))
    : null;
  if (!row.standard) return [missing("no aggregate"), why];
  if (!why) return el("span", { class: "quiet" }, percent(row.standard[VALUE]));
  return [el("b", {}, percent(row.standard[VALUE])), small(interval(row.standard)), why];
}

function versusCell(row) {
  const v = row.versus;
  if (!v) return missing("not compared");
  const signed = (share) => (share > 0 ? "+" : "") + percent(share);
  return [
    signed(v.difference),
    small(`${signed(v.low)} to ${signed(v.high)}`),
    small(chance(v.p)),
    unseen(` against ${v.other}`),
  ];
}

/** The worst result over a family's variants, and what failed among the suite's. */
function worstOf(row, indices, columns) {
  let worst = null;
  let trouble = "";
  for (const i of indices) {
    const share = shareOf(row.results[i]);
    if (share && (!worst || share[VALUE] < worst[VALUE])) worst = share;
    if (!share && columns[i].standard) trouble ||= troubleOf(row.results[i]) || "no record";
  }
  return trouble ? { share: null, trouble } : { share: worst, trouble: "" };
}

function familyColumns(board) {
  const families = new Map();
  board.columns.forEach((c, i) => {
    if (!families.has(c.family)) families.set(c.family, []);
    families.get(c.family).push(i);
  });
  return [...families].map(([family, indices]) => {
    const found = (row) => worstOf(row, indices, board.columns);
    const labels = indices.map((i) => board.columns[i].label).join("; ");
    return column(
      `attack ${family}`, "attacks", family,
      (row) => found(row).share?.[VALUE] ?? null,
      (row) => {
        const { share, trouble } = found(row);
        if (share) return percent(share[VALUE]);
        return [missing("no number"), trouble ? small(foreign(clipped(trouble, 40))) : null];
      },
      { ...accuracies, foreign: true, hint: `worst of: ${labels}` },
    );
  });
}

/** Mean certified radius: the area under the curve, which falls after each radius. */
function meanRadius(certified) {
  let area = 0;
  for (let i = 1; i < certified.radii.length; i += 1) {
    area += certified.accuracy[i] * (certified.radii[i] - certified.radii[i - 1]);
  }
  return area;
}

function certifiedColumns(board) {
  const of = (row, kind) => row.certified.find((c) => c.kind === kind);
  const has = (kind) => board.rows.some((row) => of(row, kind));
  const found = [];
  if (has("agents")) {
    found.push(column(
      "certified agents", "certified", "Any change here",
      (row) => of(row, "agents")?.here?.[VALUE] ?? null,
      (row) => shareCell(of(row, "agents")?.here ?? null, "no certificate"),
      { ...accuracies, hint: "share proven right whatever this board's adversary sends" },
    ));
  }
  if (has("l2")) {
    found.push(column(
      "certified l2", "certified", "Mean l2 radius",
      (row) => (of(row, "l2") ? meanRadius(of(row, "l2")) : null),
      (row) => (of(row, "l2") ? figures(meanRadius(of(row, "l2"))) : missing("no certificate")),
      { ...accuracies, hint: "mean certified l2 radius in the embedding; its curve is on the defense's page" },
    ));
  }
  return found;
}

const text = { kind: "text" };

function boardColumns(board) {
  const cost = (i) => (row) => row.cost?.[i] ?? null;
  const flags = (row) =>
    row.flags.map((flag) => chip(flag, DATA.flags[flag] ?? "", "flag"));
  const spread = (row) => row.best?.[SPREAD] ?? null;
  return [
    column("defense", "", "Defense", (row) => row.label, nameCell, text),
    column("rank", "", "Rank", (row) => (row.rank ? row.rank[0] * 1e5 + row.rank[1] : null), rankCell,
      { hint: "95 % interval of the rank; overlapping intervals are ties" }),
    column("clean", "", "Clean", (row) => row.clean?.[VALUE] ?? null,
      (row) => (row.clean ? [percent(row.clean[VALUE]), small(interval(row.clean))]
        : missing("no clean accuracy")),
      { ...accuracies, hint: "accuracy without any attack" }),
    column("best", "", "Worst case", (row) => row.best?.[VALUE] ?? null, worstCell,
      { ...accuracies, look: "number ranked", hint: "accuracy over every attack known, sample by sample: this is ranked" }),
    column("standard", "", "Standard suite", (row) => row.standard?.[VALUE] ?? null, standardCell,
      { ...accuracies, hint: "the same over the suite's attacks alone" }),
    ...(board.rows.some((row) => row.unaware) ? [column(
      "unaware", "", "Defense unknown", (row) => row.unaware?.[VALUE] ?? null,
      (row) => shareCell(row.unaware, "no number"),
      { ...accuracies, hint: "accuracy over the suite's attacks that do not know the defense, as most published numbers are" },
    )] : []),
    column("versus", "", "To the best", (row) => row.versus?.difference ?? null, versusCell,
      { ...accuracies, hint: "paired difference to the best row in points; of the best row, to the second" }),
    ...familyColumns(board),
    ...certifiedColumns(board),
    column("adaptive", "trust", "Adaptive", (row) => ADAPTIVE[row.adaptive][0],
      (row) => chip(...ADAPTIVE[row.adaptive], row.adaptive), text),
    column("flags", "trust", "Flags", (row) => row.flags.length,
      (row) => (row.flags.length ? el("span", { class: row.flags.length > 1 ? "marks several" : "marks" }, flags(row)) : missing("none")),
      { look: "text" }),
    column("oracle", "trust", "Oracle", (row) => (row.oracle ? "yes" : "no"),
      (row) => (row.oracle ? "yes" : "no"), text),
    column("fit", "cost", "Fit, s", cost(0), (row) => figures(cost(0)(row))),
    column("time", "cost", "ms a sample", cost(1), (row) => figures(cost(1)(row))),
    column("relative", "cost", "× undefended", cost(2), (row) => figures(cost(2)(row))),
    column("seeds", "source", "Seeds", (row) => row.seeds.length, (row) => [
      String(row.seeds.length),
      spread(row) === null ? null : small(`± ${percent(spread(row))}`),
    ], { hint: "number of seeds, and the standard deviation of the worst case over them" }),
    column("badge", "source", "Verified", (row) => Object.keys(BADGES).indexOf(row.badge),
      (row) => chip(row.badge, [BADGES[row.badge], row.verified].join(" "), "badge"), accuracies),
    column("author", "source", "By", (row) => row.author,
      (row) => foreign(clipped(row.author, 40)), text),
    column("date", "source", "Date", (row) => row.date, (row) => foreign(row.date),
      { ...text, first: "desc" }),
    column("protocol", "source", "Protocol", () => board.protocol, () => `v${board.protocol}`),
  ];
}
