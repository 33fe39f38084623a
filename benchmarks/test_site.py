"""The site with 1000 rows: how long it takes to write, its size, and until it answers.

Run with `pytest -s --benchmark-only benchmarks/test_site.py`; the browser's own clock says
when the first sort was done, from the start of the navigation. Targets: below 5 MB, below
one second.
"""

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("playwright")

from browser import browser_for_module, visit
from cibench.leaderboard.site import site_html
from leaderboard_samples import sample_leaderboard

browser = browser_for_module()
SORTED = """() => {
  document.querySelector('#table th[data-key="clean"] button').click();
  document.querySelector("#table").getBoundingClientRect();
  return performance.now();
}"""


@pytest.fixture(scope="module", params=[1000])
def leaderboard(request):
    return sample_leaderboard(rows=request.param, boards=1, columns=14)


def test_writing(benchmark, leaderboard):
    text = benchmark(site_html, leaderboard)
    benchmark.extra_info["megabytes"] = len(text.encode()) / 1e6
    print(f"\n{len(text.encode()) / 1e6:.2f} MB")


def test_first_answer(benchmark, browser, leaderboard, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(site_html(leaderboard), encoding="utf-8")
    taken = []

    def opened():
        with visit(browser, path) as seen:
            taken.append(seen.page.evaluate(SORTED))

    benchmark.pedantic(opened, rounds=5, warmup_rounds=1)
    print(
        f"\nsorted {min(taken):.0f} to {max(taken):.0f} ms after the navigation began"
    )
