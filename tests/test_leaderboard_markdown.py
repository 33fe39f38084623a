"""The markdown pages, parsed back as a code host does: the model's numbers, no more."""

import re

import msgspec
import pytest
from markdown_it import MarkdownIt

from cibench.leaderboard.boardpage import board_page
from cibench.leaderboard.markdown import readme
from leaderboard_samples import HOSTILE, sample_leaderboard

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tables(text):
    """Every table of a page: `(heading above it, rows of cells as text)`."""
    found, heading, row = [], "", None
    tokens = PARSER.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = plain(tokens[at + 1])
        elif token.type == "table_open":
            found.append((heading, []))
        elif token.type == "tr_open":
            row = []
            found[-1][1].append(row)
        elif token.type in ("th_open", "td_open"):
            row.append(plain(tokens[at + 1]))
    return found


def plain(inline):
    kinds = ("text", "code_inline", "text_special")
    return "".join(c.content for c in inline.children if c.type in kinds)


def table(text, heading):
    (rows,) = (rows for above, rows in tables(text) if above == heading)
    return rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def column(heads, word):
    (found,) = (head for head in heads if head.startswith(word))
    return found


def shown_share(share):
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.value:.1f} [{low:.1f}, {high:.1f}]"


@pytest.fixture(scope="module")
def leaderboard():
    return sample_leaderboard(rows=6)


@pytest.fixture(scope="module")
def page(leaderboard):
    return readme(leaderboard)


def test_the_table_of_a_board_holds_the_models_numbers(leaderboard, page):
    board = leaderboard.boards[0]
    heads, rows = table(page, board.title)
    worst, clean = column(heads, "worst case"), column(heads, "clean")
    assert worst == f"worst case (%) [95 % interval], n={board.n}"
    for row, cells in zip(board.rows, rows, strict=True):
        assert cells["defense"].startswith(row.label)
        assert cells["distribution"] == f"{row.distribution} {row.version}"
        assert cells[clean] == shown_share(row.clean)
        if row.best_known is not None:
            assert cells[worst].removesuffix(" ↓") == shown_share(row.best_known)
            spread = 100 * row.best_known.spread
            assert cells["seeds ± points"] == f"{len(row.seeds)} ± {spread:.1f}"
        assert cells["badge"] == row.badge
        assert cells["date"] == row.date
        assert cells["oracle"] == ("yes" if row.oracle else "no")
        assert float(cells["x undefended"]) == row.cost.relative


def test_ties_references_and_gaps_are_told(leaderboard, page):
    board = leaderboard.boards[0]
    heads, rows = table(page, board.title)
    by_label = {row.label: cells for row, cells in zip(board.rows, rows, strict=True)}
    assert by_label["none"]["defense"] == "none · undefended"
    assert by_label["genie"]["defense"] == "genie · oracle"
    assert by_label["genie"]["rank"] == "-"
    assert by_label["defense-2"]["rank"] == "1-6"
    broken = by_label["defense-5"]
    assert broken[column(heads, "worst case")] == "1 of 5 seeds timeout under flip"
    assert (broken["rank"], broken[column(heads, "standard")]) == ("-", "-")
    assert by_label["defense-3"]["adaptive"] == "not adaptively evaluated"


def test_a_lowered_row_keeps_its_old_number_and_names_the_author(leaderboard, page):
    board = leaderboard.boards[0]
    row = next(row for row in board.rows if row.lowered)
    heads, rows = table(page, board.title)
    cells = rows[board.rows.index(row)]
    assert cells[column(heads, "worst case")].endswith(" ↓")
    assert cells[column(heads, "standard")] == shown_share(row.standard)
    step = row.lowered[0]
    before, after = 100 * step.before.value, 100 * step.after.value
    assert f"lowered from {before:.1f} to {after:.1f}" in page
    assert f"of {step.author} ({step.badge}), {step.date}" in page
    _, steps = table(board_page(board, leaderboard), "Lowered by stronger attacks")
    assert steps[0]["author"] == step.author
    assert steps[0]["before (%)"] == shown_share(step.before)
    assert steps[0]["after (%)"] == shown_share(step.after)


def test_proofs_have_a_column_of_their_own(leaderboard, page):
    board = leaderboard.boards[0]
    heads, rows = table(page, board.title)
    proved = column(heads, "certified")
    assert proved == "certified (proved, q=1) (%)"
    given = [cells[proved] for cells in rows]
    assert given == ["-", "-", "-", shown_share(board.rows[3].certified[0].here), "-",
                     "-"]  # fmt: skip
    bare = [msgspec.structs.replace(row, certified=[]) for row in board.rows]
    alone = msgspec.structs.replace(
        leaderboard, boards=[msgspec.structs.replace(board, rows=bare)]
    )
    assert not any("certified" in h for h in table(readme(alone), board.title)[0])


def test_the_page_of_a_board_has_every_attack_and_agent(leaderboard):
    board = leaderboard.boards[0]
    text = board_page(board, leaderboard)
    heads, rows = table(text, "Accuracy under each attack")
    for row, cells in zip(board.rows, rows, strict=True):
        for attack in board.columns:
            found = row.results[attack.attack]
            cell = cells[column(heads, attack.label)]
            if found.share is None:
                assert cell == found.trouble
            else:
                assert cell.startswith(shown_share(found.share))
    _, agents = table(text, "Which agent hurts most")
    for row, cells in zip([r for r in board.rows if r.agents], agents, strict=False):
        for agent, share in row.agents.items():
            assert cells[agent].startswith(shown_share(share))
    assert "seed 3: timeout: 20 minutes" in text
    for row in board.rows:
        assert row.command in text
    for part in (board.fingerprint, board.intervals, *board.threat, *board.notes):
        assert part in text
    _, attacks = table(text, "The attacks")
    assert [one["spec"] for one in attacks] == [c.attack for c in board.columns]


def test_flags_are_explained_below_where_they_stand(leaderboard, page):
    _, legend = table(page, "Flags")
    meanings = {one["short"]: one["meaning"] for one in legend}
    _, rows = table(page, leaderboard.boards[0].title)
    used = {short for cells in rows for short in cells["flags"].split(", ")} - {"none"}
    assert used
    assert used <= set(meanings)
    assert all(meanings.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_hostile_texts_stay_in_their_cells(seed):
    hostile = sample_leaderboard(seed, hostile=True)
    tame = sample_leaderboard(seed)
    pages = [(readme(hostile), readme(tame))]
    pages += [
        (board_page(a, hostile), board_page(b, tame))
        for a, b in zip(hostile.boards, tame.boards, strict=True)
    ]
    for text, usual in pages:
        assert [
            [len(row) for row in rows] for _, rows in tables(text)
        ] == [[len(row) for row in rows] for _, rows in tables(usual)]  # fmt: skip
        for token in walk(PARSER.parse(text)):
            if token.type in ("html_inline", "html_block"):
                assert ALLOWED.fullmatch(token.content)
            if token.type in ("link_open", "image"):
                assert safe(dict(token.attrs))
        kinds = [token.type for token in walk(PARSER.parse(usual))]
        assert [t.type for t in walk(PARSER.parse(text))].count(
            "heading_open"
        ) == kinds.count("heading_open")
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", text)
        assert max(map(len, text.split("\n"))) < 20_000
        assert all(len(word) < 2100 for word in text.split())


ALLOWED = re.compile(r'</?code>|<a id="[A-Za-z0-9-]+">|</a>')


def safe(attributes):
    target = attributes.get("href") or attributes["src"]
    ours = ("#", "https://", "../", "boards/", "figures/", "entries", "site/")
    pages = ("CONTRIBUTING.md", "CORRECTIONS.md")
    return target in pages or target.startswith(ours)


def walk(tokens):
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def test_the_hostile_texts_are_on_the_pages():
    hostile = sample_leaderboard(hostile=True)
    cells = "\n".join(
        cell for _, rows in tables(readme(hostile)) for row in rows for cell in row
    )
    assert HOSTILE[0] in cells
    assert "a|b ## c" in cells
    assert "../../x" in cells
    assert "\\u202eevil" in cells
    assert "x…" in cells
