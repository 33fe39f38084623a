function defenseView(state) {
  const { row, board } = ROWS.get(state.id);
  const charts = [
    agentChart(board, row),
    certifiedChart("agents", [row], "certified-agents"),
    certifiedChart("l2", [row], "certified-l2"),
  ].filter(Boolean);
  const section = (title, ...content) =>
    content.flat().some(Boolean) ? [el("h3", {}, title), ...content] : [];
  const list = (texts) => (texts.length ? el("ul", {}, texts.map((t) => el("li", {}, t))) : null);
  const node = el("section", { class: "defense", "aria-labelledby": "heading" },
    el("p", {}, el("a", { href: address({ view: "board", id: board.id }) }, "← ", foreign(board.title))),
    el("h2", { id: "heading", tabindex: "-1" }, foreign(row.label)),
    el("p", { class: "marks" }, marks(row), chip(...ADAPTIVE[row.adaptive], row.adaptive),
      chip(row.badge, BADGES[row.badge], "badge")),
    row.trouble ? el("p", { class: "note" }, "No aggregate and no rank: ", foreign(row.trouble)) : null,
    factList(defenseFacts(row, board)),
    section("Lowered by stronger attacks", loweredList(row)),
    section("Results", resultTable(row, board), knowledgeList(board)),
    section("Failed cells", list(row.reasons.map((reason) => foreign(reason)))),
    section("Flags", flagList(row, board)),
    charts.map((c) => c.node),
    section("Citation", row.citation ? el("blockquote", {}, foreign(row.citation)) : null),
    section("Run it again", row.command ? command(row.command) : null),
    section("The same defense on other boards", list(elsewhere(row))));
  return {
    node, title: row.label,
    update: () => { announce(""); showInTurn(charts); },
    leave: () => charts.forEach((c) => c.purge()),
  };
}

const words = (share) => (share ? `${percent(share[VALUE])} %, interval ${interval(share)}, n ${share[COUNT]}` : "");
const spreadOf = (share) => (share?.[SPREAD] == null ? "" : `, ± ${percent(share[SPREAD])} over seeds`);

function defenseFacts(row, board) {
  const facts = [
    ["Rank", row.rank ? `${rankCell(row)} of ${board.rows.filter((other) => other.rank).length}` : "not ranked"],
    ["Worst case", words(row.best) + spreadOf(row.best) || "no aggregate"],
    ["Standard suite", words(row.standard) + spreadOf(row.standard) || "no aggregate"],
    ["Defense unknown", words(row.unaware)],
    [board.control, row.control ? words(shareOf(row.control)) || row.control.trouble : ""],
    ["Clean", words(row.clean) + spreadOf(row.clean) || "no number"],
    ["To the best row", versusWords(row.versus)],
    ["Adaptive evaluation", ADAPTIVE[row.adaptive][1]],
    ["Role", row.role ? ROLES[row.role] : row.oracle ? ROLES.oracle : ""],
    ["Spec", row.spec], ["Distribution", [row.dist, row.version].filter(Boolean).join(" ")],
    ["Link", row.link ? outside(row.link, foreign(clipped(row.link, 80))) : ""],
    ["Entry", row.entry], ["By", row.author],
    ["Verified", [row.badge, row.verified].filter(Boolean).join(": ")],
    ["Cost", row.cost ? `${figures(row.cost[0])} s to fit, ${figures(row.cost[1])} ms a sample,`
      + ` ${figures(row.cost[2])} times the undefended` : ""],
    ["Seeds", row.seeds.join(", ")], ["Newest record", row.date], ["Protocol", `version ${board.protocol}`],
    ...row.certified.map((c) => [
      `Certified (${c.kind})`,
      `${c.here ? words(c.here) : `mean radius ${figures(meanRadius(c))}`}, ${sure(c)}`,
    ]),
  ];
  return facts.filter(([, value]) => value);
}

function versusWords(v) {
  if (!v) return "";
  return `${percent(v.difference)} points (${percent(v.low)} to ${percent(v.high)}) against ${v.other}, ${chance(v.p)}`;
}

function loweredList(row) {
  if (!row.lowered.length) return null;
  return el("ol", {}, row.lowered.map((item) => el("li", {},
    `${percent(item.before[VALUE])} % → ${percent(item.after[VALUE])} % (${interval(item.after)}) by `,
    foreign(item.author), ", ", foreign(item.date), ", entry ", foreign(item.entry), " (", foreign(item.badge), "): ",
    el("code", {}, foreign(item.attack)))));
}

function resultTable(row, board) {
  const rows = board.columns.map((c, i) => {
    const result = row.results[i];
    const share = shareOf(result);
    const author = Array.isArray(result) || !result ? "" : result.author;
    if (!result && !c.standard) return null;
    return [
      el("span", {}, foreign(c.label), c.label === c.spec ? null : small(el("code", {}, foreign(c.spec))),
        el("span", { class: "marks" }, c.flags.map((flag) => chip(flag, DATA.flags[flag] ?? "", "flag")))),
      share ? percent(share[VALUE]) : troubleOf(result) || "no record",
      share ? interval(share) : NONE, share ? String(share[COUNT]) : NONE,
      share?.[SPREAD] == null ? NONE : percent(share[SPREAD]),
      c.knowledge, c.standard ? "suite" : "extra", author || NONE,
    ];
  }).filter(Boolean);
  if (!rows.length) return null;
  return plainTable("Accuracy in percent under each attack, 95 % interval",
    ["Attack", "Accuracy", "Interval", "n", "± seeds", "Knows", "Part of", "By"], rows);
}

function knowledgeList(board) {
  const kinds = Object.keys(KNOWLEDGE).filter((kind) => board.columns.some((c) => c.knowledge === kind));
  return el("dl", { class: "legend" }, kinds.map((kind) => [
    el("dt", {}, `Knows: ${kind}`), el("dd", {}, KNOWLEDGE[kind]),
  ]));
}

function flagList(row, board) {
  const flags = [...new Set([row, ...board.columns].flatMap((part) => part.flags))].sort();
  if (!flags.length) return null;
  return el("dl", { class: "legend" }, flags.map((flag) => [
    el("dt", {}, chip(flag, "", "flag")), el("dd", {}, foreign(DATA.flags[flag] ?? "no meaning given")),
  ]));
}

function command(text) {
  const code = el("code", { id: "command" }, text);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    announce("Copied the command");
    button.textContent = "Copied";
  };
  const button = el("button", { type: "button", onclick: copy }, "Copy the command");
  return el("div", { class: "command" }, el("pre", { tabindex: "0", role: "region", "aria-label": "Command" }, code), button);
}

function elsewhere(row) {
  return [...ROWS.values()]
    .filter((other) => other.row !== row && identity(other.row) === identity(row))
    .map((other) => defenseLink(other.row.id, foreign(other.board.title)));
}
