import re

import pytest
import torch

from cibench import AgentLayout, ThreatModelError
from cibench._errors import UsageError
from helpers import layout_of, normal


def test_slices_cover_every_column_once_in_order():
    layout = layout_of(3, 1, 2)
    columns = [c for s in layout.slices for c in range(layout.width)[s]]
    assert columns == list(range(6))
    assert [s.stop - s.start for s in layout.slices] == [3, 1, 2]
    assert layout.owner.tolist() == [0, 0, 0, 1, 2, 2]
    assert (layout.agents, layout.width) == (3, 6)


@pytest.mark.parametrize("widths", [(3, 1, 2), (2, 2, 2)])
def test_expand_and_block_norms_agree_with_a_loop(widths):
    layout = layout_of(*widths)
    values, weights = normal(4, layout.width), normal(4, layout.agents, seed=1)
    for n in range(4):
        column = 0
        for agent, width in enumerate(widths):
            own = range(column, column + width)
            norm = sum(float(values[n, c]) ** 2 for c in own) ** 0.5
            assert float(layout.block_norms(values)[n, agent]) == pytest.approx(norm)
            for c in own:
                assert layout.expand(weights)[n, c] == weights[n, agent]
            column += width


@pytest.mark.parametrize("widths", [(3, 1, 2), (2, 2, 2)])
def test_block_norms_have_a_finite_gradient_at_zero(widths):
    values = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    layout_of(*widths).block_norms(values).sum().backward()
    assert values.grad.tolist() == [[0.0] * 6] * 2


def test_index_by_name_and_by_number():
    layout = layout_of(1, 1, 1)
    assert [layout.index(agent) for agent in ("a", "c", "1", "3")] == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("0", "agent number: expected 1 to 3, got 0 (agents: a, b, c)"),
        ("4", "agent number: expected 1 to 3, got 4"),
        ("d", "agent: expected one of a, b, c or a number from 1 to 3, got 'd'"),
        ("-1", "got '-1'"),
        ("", "got ''"),
    ],
)
def test_index_of_an_unknown_agent(agent, message):
    with pytest.raises(ThreatModelError, match=re.escape(message)):
        layout_of(1, 1, 1).index(agent)


@pytest.mark.parametrize(
    ("names", "widths", "message"),
    [
        ((), (), "at least one agent, got 0 names and 0 widths"),
        (("a", "b"), (1,), "one width per agent name"),
        (("a", "a"), (1, 1), "expected unique names"),
        (("a", "7b"), (1, 1), "starts with a letter, got '7b'"),
        (("a b",), (1,), "got 'a b'"),
        (("a/b",), (1,), "got 'a/b'"),
        (("a",), (0,), "expected a width >= 1 for agent a, got 0"),
    ],
)
def test_layouts_that_are_refused(names, widths, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        AgentLayout(names, widths)


def test_equality_and_hash_are_by_value():
    assert layout_of(1, 2) == layout_of(1, 2)
    assert len({layout_of(1, 2), layout_of(1, 2), layout_of(2, 1)}) == 2
