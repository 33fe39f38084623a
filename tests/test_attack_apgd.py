"""Auto-PGD against closed forms, the published checkpoints and plain PGD."""

import pytest
import torch

from cibench import Criterion, Knowledge, Victim
from cibench_plugins.attacks import apgd
from cibench_plugins.attacks.apgd import APGD, checkpoints
from cibench_plugins.attacks.pgd import PGD
from helpers import Plain, layout_of, linear_head, mlp_head, observation_of, seeded

LAYOUT = layout_of(2, 4, 3)
N = 20


def mask_of(*agents):
    mask = torch.zeros(N, LAYOUT.agents, dtype=torch.bool)
    mask[:, list(agents)] = True
    return mask


def attacked(attack, center, clean, criterion, *agents, radius=None, seed=5):
    """What the attack sends, and its victim."""
    victim = Victim(Knowledge.FUSION, undefended=center, defended=center)
    sent = attack.run(
        victim, clean, criterion,
        compromised=mask_of(*agents), radius=radius, generator=seeded(seed),
    )  # fmt: skip
    return sent, victim


def answers(center, clean):
    return Criterion(center(clean).logits.argmax(dim=1))


def test_checkpoints_are_those_of_the_paper():
    """p_1 = 0.22, then max(p_j - p_{j-1} - 0.03, 0.06) further: of 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("size", [0.1, 2.0])
@pytest.mark.parametrize("agents", [(1,), (0, 2)])
def test_it_finds_the_optimum_of_a_linear_center(agents, size):
    """The least margin in a product of balls: lower by r_i times each block's slope."""
    center = Plain(linear_head(LAYOUT.width, 2, seed=1))
    clean = observation_of(LAYOUT, N, seed=2)
    criterion = answers(center, clean)
    radius = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64) * size
    sent, _ = attacked(APGD(steps=20), center, clean, criterion, *agents, radius=radius)
    weight = center.head.weight.detach()
    slope = LAYOUT.block_norms((weight[0] - weight[1])[None]).squeeze(0)
    least = criterion.margin(center(clean).logits)
    least = least - sum(radius[agent] * slope[agent] for agent in agents)
    found = criterion.margin(center(sent).logits)
    assert torch.allclose(found, least, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_in_a_ball_it_is_at_least_as_strong_as_pgd(seed):
    center = Plain(mlp_head(LAYOUT.width, 4, seed=seed))
    clean = observation_of(LAYOUT, N, seed=seed)
    criterion = answers(center, clean)
    radius = torch.full((LAYOUT.agents,), 0.8, dtype=torch.float64)
    kept, won = {}, {}
    for attack in (APGD(knowledge="fusion"), PGD(knowledge="fusion", restarts=1)):
        sent, _ = attacked(attack, center, clean, criterion, 1, 2, radius=radius)
        kept[attack.name] = criterion.margin(center(sent).logits)
        won[attack.name] = int(criterion.succeeded(center(sent).logits).sum())
    assert won["apgd"] >= won["pgd"]
    assert (kept["apgd"] <= kept["pgd"] + 1e-3).float().mean() >= 0.9
    assert kept["apgd"].mean() <= kept["pgd"].mean() + 1e-6


def test_without_a_bound_the_best_of_all_radii_is_sent(monkeypatch):
    center = Plain(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, N, seed=4)
    criterion = answers(center, clean)
    attack = APGD(steps=15, classes=1)
    sent, _ = attacked(attack, center, clean, criterion, 1)
    all_radii = criterion.margin(center(sent).logits)
    for factor in apgd.RADII:
        monkeypatch.setattr(apgd, "RADII", (factor,))
        sent, _ = attacked(attack, center, clean, criterion, 1)
        assert (all_radii <= criterion.margin(center(sent).logits) + 1e-9).all()
        change = LAYOUT.block_norms(sent.features - clean.features)
        assert (change[:, [0, 2]] == 0).all()


class Narrow(torch.nn.Module):
    """Class 2 is right only near a point; elsewhere class 0, by a slope towards 1."""

    def __init__(self):
        super().__init__()
        self.spot = torch.tensor([0.0, 3.0], dtype=torch.float64)

    def forward(self, features):
        x = features[:, :2]
        near = 6.0 - 4 * (x - self.spot).square().sum(dim=1)
        return torch.stack([0 * near + 4.0, 3.9 - (x[:, 0] - 2).square(), near], dim=1)


def test_a_class_of_its_own_is_found_where_cross_entropy_runs_elsewhere():
    layout = layout_of(2, 1)
    clean = observation_of(layout, 8, seed=1)
    clean = clean.with_features(torch.zeros_like(clean.features))
    criterion = Criterion(torch.zeros(8, dtype=torch.long))
    radius = torch.tensor([4.0, 0.0], dtype=torch.float64)
    center = Plain(Narrow())
    mask = torch.tensor([[True, False]]).expand(8, 2)

    def broken(classes):
        victim = Victim(Knowledge.FUSION, undefended=center, defended=center)
        sent = APGD(steps=30, classes=classes).run(
            victim, clean, criterion, compromised=mask, radius=radius,
            generator=seeded(0),
        )  # fmt: skip
        return criterion.succeeded(center(sent).logits).float().mean()

    assert (broken(0), broken(2)) == (0, 1)


def test_its_cost_is_what_is_documented():
    """Gradients: losses x radii x starts x (steps + 1), and one for each halving."""
    center = Plain(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, N, seed=4)
    attack = APGD(steps=10, restarts=2, classes=1)
    radius = torch.ones(LAYOUT.agents, dtype=torch.float64)
    _, victim = attacked(
        attack, center, clean, answers(center, clean), 1, radius=radius
    )
    least = 2 * 1 * 2 * 11 * N
    assert least <= victim.gradients <= least + 2 * 2 * len(checkpoints(10)) * N
    assert victim.queries == N


def test_the_same_seed_sends_the_same():
    center = Plain(mlp_head(LAYOUT.width, 3, seed=3))
    clean = observation_of(LAYOUT, N, seed=4)
    attack = APGD(steps=5, restarts=3)
    runs = [
        attacked(attack, center, clean, answers(center, clean), 1, seed=seed)[
            0
        ].features
        for seed in (5, 5)
    ]
    assert torch.equal(*runs)
