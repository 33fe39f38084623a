"""The site in a real browser: what a reader sees, and that no text can act on it."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("playwright")

from playwright.sync_api import expect

from browser import PHONE, browser_for_module, drawn, visit
from cibench.leaderboard.site import page as site_page
from cibench.leaderboard.site import site_html
from leaderboard_samples import sample_leaderboard

browser = browser_for_module()


@pytest.fixture(scope="module")
def board():
    return sample_leaderboard(rows=8)


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "index.html"
    path.write_text(site_html(board), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "index.html"
    path.write_text(site_html(sample_leaderboard(hostile=True)), encoding="utf-8")
    return path


def labels(page):
    """Defenses of the table from top to bottom, by their rows' ids."""
    rows = page.locator("#table tbody tr[data-row]")
    return rows.evaluate_all("rows => rows.map((row) => row.dataset.row)")


def head(page, key):
    return page.locator(f'#table th[data-key="{key}"]')


# What the file is


def test_the_same_leaderboard_gives_the_same_page(board, site):
    assert site_html(board) == site.read_text(encoding="utf-8")


def test_the_page_is_one_file_that_allows_its_own_two_scripts_alone(site):
    text = site.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.split(maxsplit=1) for rule in unescape(policy).split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].count("sha256-") == 2
    assert "unsafe" not in rules["script-src"]
    assert not re.search(r"<(?:link|img|iframe)\b|\ssrc=", text.split("<script")[0])


def test_a_thousand_rows_stay_below_five_megabytes():
    text = site_html(sample_leaderboard(rows=1000, boards=1, columns=14))
    assert len(text.encode()) < 5_000_000


@pytest.mark.parametrize(
    ("missing", "words"), [("jinja2", "expected jinja2"), ("plotly", "expected plotly")]
)
def test_missing_libraries_are_told(board, monkeypatch, missing, words):
    if missing == "jinja2":
        monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    else:
        monkeypatch.setattr(site_page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(site_page.EnvironmentFault, match=words) as error:
        site_html(board)
    assert 'pip install "cibench[report]"' in str(error.value)


def test_without_boards_the_page_says_so(browser, tmp_path):
    empty = msgspec.structs.replace(
        sample_leaderboard(), boards=[], curves=[], entries=[]
    )
    path = tmp_path / "index.html"
    path.write_text(site_html(empty), encoding="utf-8")
    for route in ("", "#/charts", "#/about", "#/board/no", "#/defense/no"):
        with visit(browser, path, route) as seen:
            assert "board" in seen.page.locator("main").inner_text().lower()
            assert seen.quiet()


# The table


def test_the_table_shows_every_row_as_sorted_by_the_board(browser, board, site):
    with visit(browser, site) as seen:
        assert labels(seen.page) == [row.id for row in board.boards[0].rows]
        body = seen.page.locator("#table tbody").inner_text()
        for row in board.boards[0].rows:
            assert row.label in body
        ranked = next(row for row in board.boards[0].rows if row.rank == (1, 8))
        cell = seen.page.locator(f'tr[data-row="{ranked.id}"] td').first
        assert cell.inner_text() == "1\N{EN DASH}8"
        assert seen.quiet()


def test_one_sentence_says_who_is_first_or_who_may_be(browser, board, tmp_path):
    sample = board.boards[0]
    tied = [row for row in sample.rows if row.rank and row.rank[0] == 1]
    assert len(tied) > 1
    change = msgspec.structs.replace
    rows = [
        change(row, rank=row.rank and (i + 1, i + 1))
        for i, row in enumerate(sample.rows)
    ]
    weak = [
        change(row, best_known=row.best_known and change(row.best_known, value=0.01))
        for row in rows
    ]
    boards = [
        sample,
        change(sample, id="clear", rows=rows),
        change(sample, id="weak", rows=weak),
        change(sample, id="nobody", rows=[change(row, rank=None) for row in rows]),
    ]
    path = tmp_path / "index.html"
    path.write_text(site_html(change(board, boards=boards)), encoding="utf-8")
    with visit(browser, path) as seen:
        words = seen.page.locator(".leaders")
        expect(words).to_contain_text(f"A tie of {len(tied)} for the first place")
        expect(words).to_contain_text(tied[0].label)
        seen.page.locator("#board").select_option("clear")
        expect(words).to_contain_text("told apart from every other row")
        expect(words.get_by_role("link")).to_have_text([rows[0].label])
        expect(words).not_to_contain_text("largest class")
        seen.page.locator("#board").select_option("weak")
        expect(words).to_contain_text("Always answering the largest class")
        seen.page.locator("#board").select_option("nobody")
        expect(words).to_have_text("No row is ranked.")


def test_a_row_without_aggregate_says_why(browser, board, site):
    broken = board.boards[0].rows[-1]
    with visit(browser, site) as seen:
        row = seen.page.locator(f'tr[data-row="{broken.id}"]')
        assert "1 of 5 seeds timeout under flip" in row.inner_text()
        seen.page.goto(f"{site.as_uri()}#/defense/{broken.id}")
        expect(seen.page.locator("h2#heading")).to_have_text(broken.label)
        assert "seed 3: timeout: 20 minutes" in seen.page.locator("main").inner_text()


def test_a_lowered_row_keeps_its_old_number_and_names_who_lowered_it(
    browser, board, site
):
    row = next(row for row in board.boards[0].rows if row.lowered)
    with visit(browser, site) as seen:
        text = seen.page.locator(f'tr[data-row="{row.id}"]').inner_text()
        assert f"{100 * row.standard.value:.1f}" in text
        assert f"{100 * row.best_known.value:.1f}" in text
        assert "lowered by Eve" in text


@pytest.mark.parametrize("key", ["clean", "best", "relative", "rank"])
def test_numbers_sort_as_numbers_with_gaps_last(browser, board, site, key):
    value = {
        "clean": lambda row: row.clean and row.clean.value,
        "best": lambda row: row.best_known and row.best_known.value,
        "relative": lambda row: row.cost.relative,
        "rank": lambda row: row.rank,
    }[key]
    rows = board.boards[0].rows
    given = [row for row in rows if value(row) is not None]
    gaps = [row.id for row in rows if value(row) is None]
    upward = [row.id for row in sorted(given, key=value)]
    downward = [row.id for row in sorted(given, key=value, reverse=True)]
    with visit(browser, site) as seen:
        page = seen.page
        found = {}
        for _ in range(2):
            head(page, key).get_by_role("button").click()
            found[head(page, key).get_attribute("aria-sort")] = labels(page)
        assert found == {"ascending": upward + gaps, "descending": downward + gaps}
        assert page.locator("#table th[aria-sort]").count() == 1


def test_search_and_filters_choose_rows(browser, board, site):
    rows = board.boards[0].rows
    with visit(browser, site) as seen:
        page = seen.page
        page.get_by_label("Search").fill("genie")
        assert labels(page) == [row.id for row in rows if row.label == "genie"]
        page.get_by_role("button", name="Reset").click()
        page.get_by_label("Verified").select_option("claimed")
        assert labels(page) == [row.id for row in rows if row.badge == "claimed"]
        page.get_by_label("Verified").select_option("")
        page.get_by_label("adaptively evaluated only").check()
        assert labels(page) == [row.id for row in rows if row.adaptive != "none"]
        page.get_by_label("hide oracle rows").check()
        assert labels(page) == [
            row.id for row in rows if row.adaptive != "none" and not row.oracle
        ]
        page.get_by_label("Search").fill("nothing has this name")
        expect(page.locator("#table tbody")).to_contain_text("No row matches")
        assert seen.quiet()


def test_columns_hide_by_group_and_proofs_stand_apart(browser, site):
    with visit(browser, site) as seen:
        page = seen.page
        group = page.locator("#table thead .groups th", has_text="Certified")
        expect(group).to_have_count(1)
        page.get_by_label("Certified", exact=True).uncheck()
        expect(group).to_have_count(0)
        expect(page.locator("#table td.certified")).to_have_count(0)


def test_addresses_keep_the_state_and_back_undoes(browser, board, site):
    with visit(browser, site) as seen:
        page = seen.page
        page.locator("#board").select_option("board-1")
        expect(page.locator("h2#heading")).to_have_text(board.boards[1].title)
        head(page, "clean").get_by_role("button").click()
        order, shared = labels(page), page.url
        page.go_back()
        assert head(page, "clean").get_attribute("aria-sort") is None
        page.go_back()
        expect(page.locator("h2#heading")).to_have_text(board.boards[0].title)
        with visit(browser, site, shared[shared.index("#") :]) as again:
            assert labels(again.page) == order


def test_many_rows_wait_for_a_press(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(site_html(sample_leaderboard(rows=230, boards=1)), "utf-8")
    with visit(browser, path) as seen:
        assert len(labels(seen.page)) == 100
        seen.page.get_by_role("button", name="Show all 230 rows").click()
        assert len(labels(seen.page)) == 230


# Other pages


def test_a_defense_has_its_results_and_how_to_run_it_again(browser, board, site):
    row = board.boards[0].rows[3]
    with visit(browser, site) as seen:
        page = seen.page
        page.get_by_role("link", name=row.label, exact=True).first.click()
        expect(page.locator("h2#heading")).to_be_focused()
        text = page.locator("main").inner_text()
        for part in (row.command, row.citation, row.spec, row.entry, row.author):
            assert part in text
        for column in board.boards[0].columns:
            assert f"{100 * row.results[column.attack].share.value:.1f}" in text
        assert drawn(page) == 3  # its agents and two kinds of certificates
        page.get_by_role("button", name="Copy the command").click()
        expect(page.get_by_role("status")).to_have_text("Copied the command")
        assert seen.quiet()


def test_charts_draw_what_the_numbers_below_say(browser, board, site):
    with visit(browser, site, "#/charts/board-0") as seen:
        page = seen.page
        titles = [text.strip() for text in page.locator(".chart h3").all_inner_texts()]
        assert drawn(page) == len(titles) == 6
        assert titles[0] == "Worst case with 95 % interval"
        assert board.curves[0].title in titles
        traces = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('.plot')]"
            ".map((plot) => [plot.id, plot.data.length]))"
        )
        assert traces["plot-curve-0"] == 1 + len(board.curves[0].lines)
        assert page.locator("#plot-forest svg .scatterlayer .point").count() >= 7
        drawn_at = page.evaluate("document.getElementById('plot-forest').data[0].x")
        expected = [100 * r.best_known.value for r in board.boards[0].rows[:-1]]
        assert drawn_at == pytest.approx(expected[::-1], abs=1e-3)
        assert page.evaluate(
            "document.getElementById('plot-curve-0').layout.xaxis.type"
        ) == "log"  # fmt: skip
        figure = page.locator(".chart").first
        figure.get_by_text("Numbers of this chart").click()
        expect(figure.locator("table tbody tr")).to_have_count(7)
        page.get_by_label("Search").fill("defense-3")
        expect(page.locator("#plot-forest.ready")).to_have_count(1)
        page.wait_for_function(
            "document.getElementById('plot-forest').data?.[0].x.length === 1"
        )
        assert seen.quiet()


def test_about_lists_entries_statistics_and_how_to_object(browser, board, site):
    with visit(browser, site, "#/about") as seen:
        text = seen.page.locator("#about").inner_text()
        for entry in board.entries:
            assert entry.digest in text
        assert board.boards[0].intervals in text
        link = seen.page.get_by_role("link", name="CONTRIBUTING.md")
        assert link.get_attribute("href") == "../CONTRIBUTING.md"


# Hands, eyes and small screens


def test_keys_alone_sort_filter_and_open(browser, board, site):
    with visit(browser, site) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(40):
            page.keyboard.press("Tab")
            key = page.evaluate("document.activeElement.closest('th')?.dataset.key")
            if key == "clean":
                break
        assert key == "clean"
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid"
        page.keyboard.press("Enter")
        assert head(page, "clean").get_attribute("aria-sort") == "descending"
        assert page.evaluate(
            "document.activeElement.closest('th').dataset.key"
        ) == "clean"  # fmt: skip
        assert "by Clean, descending" in page.get_by_role("status").inner_text()


@pytest.mark.parametrize("route", ["", "#/charts/board-0", "#/about"])
def test_controls_have_names_and_headings_an_order(browser, site, route):
    with visit(browser, site, route) as seen:
        if "charts" in route:
            drawn(seen.page)
        snapshot = seen.page.locator("body").aria_snapshot()
        kinds = r"(?:button|link|combobox|searchbox|checkbox|textbox|img|region)"
        unnamed = re.findall(rf"^\s*- {kinds}:?$", snapshot, re.MULTILINE)
        assert unnamed == []
        levels = seen.page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')]"
            ".filter((h) => h.checkVisibility()).map((h) => Number(h.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(levels))
        for role in ("banner", "main", "contentinfo"):
            expect(seen.page.get_by_role(role)).to_have_count(1)


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!own || !node.checkVisibility() || node.closest("script,svg,.unseen")) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("route", ["", "#/defense/board-0-row-3", "#/about"])
def test_text_stands_out_in_both_themes(browser, site, scheme, route):
    with visit(browser, site, route, color_scheme=scheme) as seen:
        assert seen.page.evaluate(CONTRAST) == []


def test_the_theme_is_chosen_by_the_system_and_by_the_reader(browser, site):
    back = "getComputedStyle(document.body).backgroundColor"
    with visit(browser, site, color_scheme="dark") as seen:
        page = seen.page
        dark = page.evaluate(back)
        button = page.locator("#theme")
        assert button.inner_text() == "Theme: auto"
        button.click()
        expect(button).to_have_text("Theme: light")
        assert page.evaluate(back) == "rgb(255, 255, 255)" != dark


@pytest.mark.parametrize(
    "route", ["", "#/charts/board-0", "#/defense/board-0-row-2", "#/about"]
)
def test_a_phone_scrolls_tables_and_never_the_page(browser, site, hostile, route):
    for path in (site, hostile):
        with visit(browser, path, route, size=PHONE) as seen:
            if "charts" in route or "defense" in route:
                drawn(seen.page)
            wide = seen.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], path
            if not route:
                expect(seen.page.get_by_label("Search")).to_be_hidden()
                seen.page.get_by_text("Filters and columns").click()
                expect(seen.page.get_by_label("Search")).to_be_visible()
                box = seen.page.locator("#table tbody th").first
                seen.page.evaluate(
                    "document.querySelector('.wide.main').scrollLeft = 400"
                )
                assert box.bounding_box()["x"] < 20  # the defense's name stays


# Texts that try to act


class Elements(HTMLParser):
    """Names of the elements of a page as it is sent."""

    def __init__(self):
        super().__init__()
        self.names = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)


@pytest.mark.parametrize(
    "route",
    ["", "#/board/board-1", "#/charts/board-0", "#/charts/board-1", "#/about"]
    + [f"#/defense/board-0-row-{row}" for row in range(6)],
)
def test_hostile_texts_stay_texts(browser, hostile, route):
    watch = "window.__ran = []; window.alert = (what) => window.__ran.push(what);"
    with visit(browser, hostile, route) as seen:
        page = seen.page
        page.add_init_script(watch)
        page.reload()
        if "charts" in route or "defense" in route:
            drawn(page)
        assert page.evaluate("window.__ran") == []
        found = page.evaluate(
            "Object.fromEntries(['iframe', 'object', 'embed', 'form[action]', 'base',"
            " 'a[href^=\"javascript\" i]', '[onclick]', '[onerror]', 'img[src]']"
            ".map((what) => [what, document.querySelectorAll(what).length]))"
        )
        assert set(found.values()) == {0}, found
        assert page.locator("body script, head script").count() <= 4
        assert "<script>alert(1)</script>" in page.locator("body").inner_text() or route
        long = page.evaluate(
            "Math.max(...[...document.querySelectorAll('body *:not(script)')]"
            ".flatMap((n) => [...n.childNodes].filter((c) => c.nodeType === 3)"
            ".map((c) => c.data.length)))"
        )
        assert long < 2100  # ten thousand characters were cut
        assert seen.quiet()


def test_hostile_texts_make_no_element_of_the_file(hostile, site):
    counts = []
    for path in (hostile, site):
        parser = Elements()
        parser.feed(path.read_text(encoding="utf-8"))
        counts.append({name: parser.names.count(name) for name in set(parser.names)})
    assert counts[0] == counts[1]


def test_directions_of_foreign_text_end_with_it(browser, hostile):
    with visit(browser, hostile) as seen:
        text = seen.page.locator("body").inner_text()
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", text)
        assert "\\u202e" in text


def test_the_data_are_json_without_an_end_of_script(hostile):
    text = hostile.read_text(encoding="utf-8")
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    assert not re.search("[<>&\u2028\u2029]", data)
    assert len(json.loads(data)["boards"]) == 2
