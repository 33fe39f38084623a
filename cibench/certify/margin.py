"""How far a head's decision stands in the Euclidean norm, without sampling.

For a linear head `f(x) = V x + c` the lead of class y over k falls by at most
`||V_y - V_k|| R` within distance R, and along that row it does: the radius is exact.

For one hidden layer, `f(x) = A phi(V x + c) + d` with `phi` a leaky ReLU of slope s in
[0, 1], take a point p with hidden inputs `u = V p + c`, a change x of norm at most R, and
`a = A_y - A_k`. Unit j then receives `u_j + t` with `t = V_j x` and `|t| <= rho_j = R
||V_j||`, and the lead is `lead(p) + sum_j a_j (phi(u_j + t) - phi(u_j))`.

- A unit with `|u_j| >= rho_j` cannot turn: phi is linear there, and nothing is lost.
- Where `a_j > 0`: `phi(u_j + t) >= b (u_j + t)` for each b in [s, 1], as phi is convex and
  homogeneous; one of these lines is the tangent at u_j. Some steps of ascent pick b.
- Where `a_j < 0`: `phi(u_j + t) - phi(u_j) = m t` for some m between s and 1 which, as
  `|t| <= rho_j`, is within `half = (1 - s) (1 - |u_j| / rho_j) / 2` of the middle of
  [1 - 2 half, 1] for `u_j > 0`, of [s, s + 2 half] else.

So the lead falls by at most what the lines lose at p, and R times the norm of `V' (a *
slopes)` plus the largest norm of `V' (a * half * e)` over all e in [-1, 1]^h, for which
there are bounds by singular values and by the entries of V V'.

Source: Zhang, Weng, Chen, Hsieh and Daniel 2018 (CROWN: lines around each unit) and Xu et
    al. 2021 (their slopes optimized); Tsuzuku, Sato and Sugiyama 2018 (margin over
    Lipschitz constant), here of the units that can turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from .._errors import UsageError

#: Steps of the ascent over slopes, and halvings of a radius's logarithm.
_STEPS, _HALVINGS = 4, 24
#: Numbers in the working set.
_WORKING_SET = 2**23


def margin_radius(head: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Largest distance found within which the decision at each point stands.

    Exact for a linear head. In exact arithmetic; a float32 head decides otherwise only
    where its lead is a rounding error.

    Args:
        head: a linear layer, or two with a ReLU or leaky ReLU between them, such as
            `cibench.fusion_head` makes; `(n, width)` features to `(n, classes)` logits.
        points: `(n, width)` where it decides.

    Returns:
        `(n,)` float64 radius in the units of the points: no change of a smaller norm
        changes the class; 0 where two classes tie; infinite for a head that is constant
        or has one class. And the `(n,)` class it holds for, the first of equal ones.

    Raises:
        UsageError: the head is another kind of model.
    """
    known = _read(head)
    points = points.double()
    classes = known.logits(points).argmax(dim=1)
    pieces = _pieces(known, points)
    return torch.cat([_radius(known, points[piece]) for piece in pieces]), classes


def smallest_lead(
    head: nn.Module,
    points: Tensor,
    radius: Tensor,
    directions: Tensor | None = None,
) -> Tensor:
    """`(n,)` lower bound of the lead of the class decided at each point, within a radius.

    The decision stands throughout the ball if this is positive: what a recovery radius is
    to be compared with.

    Args:
        head, points: as in `margin_radius`.
        radius: `(n,)` or one number, finite and at least 0, in the units of the points.
        directions: `(width, r)` orthonormal columns whose span holds all changes, such as
            an affine manifold's basis; none: any change.
    """
    known = _read(head, directions)
    points = points.double()
    radius = torch.as_tensor(radius).to(points).expand(len(points))
    if not bool((torch.isfinite(radius) & (radius >= 0)).all()):
        raise UsageError("radius: expected finite numbers of at least 0, got others")
    found = [
        _lead(known, *_leads(known, points[piece]), radius[piece, None]).amin(dim=1)
        for piece in _pieces(known, points)
    ]
    return torch.cat(found)


def lead_rounding(
    head: nn.Module, magnitudes: Tensor, radius: Tensor, dtype: torch.dtype
) -> Tensor:
    """`(n,)` by how much rounding may change a lead of a head evaluated in `dtype`.

    Points within the radius are rounded to `dtype`, and sums of n terms in it are off by
    at most about n roundings of the sum of magnitudes, in any order. Where `smallest_lead`
    is above this, the head decides as at the point in all of the ball, as it is deployed.

    Args:
        head, radius: as in `smallest_lead`.
        magnitudes: `(n, width)` sums of magnitudes that make the points up.
        dtype: of the deployed head and what it is fed with.

    Source: Higham 2002, section 3.1.
    """
    known = _read(head)
    size = magnitudes.double().abs()
    reach = torch.as_tensor(radius).to(size).expand(len(size))[:, None]
    terms = size.shape[1] + 16
    if known.inner is None:
        turned = reach * torch.linalg.vector_norm(known.outer, dim=1)
    else:
        assert known.shift is not None
        size = size @ known.inner.abs().T + reach * known.norms + known.shift.abs()
        terms, turned = terms + len(known.norms), torch.zeros_like(reach)
    most = size @ known.outer.abs().T + turned + known.bias.abs()
    unit = torch.finfo(dtype).eps + torch.finfo(torch.float64).eps
    # Of two logits; twice, as the first layer may be applied to parts.
    found: Tensor = 4 * terms * unit * most.amax(dim=1)
    return found


@dataclass(frozen=True, eq=False)
class _Head:
    """`A phi(V x + c) + d`, or `A x + d` where `inner` is None; float64."""

    outer: Tensor
    bias: Tensor
    inner: Tensor | None = None
    shift: Tensor | None = None
    slope: float = 1.0
    directions: Tensor | None = None

    def logits(self, points: Tensor) -> Tensor:
        if self.inner is not None:
            assert self.shift is not None
            points = points @ self.inner.T + self.shift
            points = torch.where(points > 0, points, self.slope * points)
        return points @ self.outer.T + self.bias

    def along(self, rows: Tensor) -> Tensor:
        """Rows in the coordinates of the changes allowed."""
        return rows if self.directions is None else rows @ self.directions

    @cached_property
    def norms(self) -> Tensor:
        """`(h,)` norms of the rows of V."""
        assert self.inner is not None
        norms: Tensor = torch.linalg.vector_norm(self.along(self.inner), dim=1)
        return norms

    @cached_property
    def root(self) -> Tensor:
        """R of no more rows than V' with `||R x|| = ||V' x||`."""
        assert self.inner is not None
        root: Tensor = torch.linalg.qr(self.along(self.inner).T, mode="r").R
        return root

    @cached_property
    def _tops(self) -> tuple[Tensor, Tensor, Tensor]:
        unit = self.root / self.norms.clamp_min(1e-300)
        norm = torch.linalg.matrix_norm
        return norm(self.root, 2), norm(unit, 2), (self.root.T @ self.root).abs()

    def largest(self, weights: Tensor) -> Tensor:
        """`(...)` bound of `||V' (weights * e)||` over all e in [-1, 1]^h.

        The least of three: the largest singular value of V, or of V with its rows scaled to
        unit norm, times the norm of what else there is; and the square root of `sum
        |V_i . V_j| weights_i weights_j`.

        Args:
            weights: `(..., h)`, not negative.
        """
        plain, unit, gram = self._tops
        norm = torch.linalg.vector_norm
        spectral = torch.minimum(
            plain * norm(weights, dim=-1), unit * norm(weights * self.norms, dim=-1)
        )
        crossed = ((weights @ gram) * weights).sum(dim=-1).sqrt()
        return torch.minimum(spectral, crossed)


def _radius(head: _Head, points: Tensor) -> Tensor:
    hidden, ahead, gains = _leads(head, points)
    if head.inner is None:
        far = ahead / torch.linalg.vector_norm(head.along(gains), dim=2)
        # A class with the same row never catches up; a tie stays one.
        return torch.where(ahead > 0, far, 0.0).amin(dim=1)
    # phi is 1-Lipschitz, so this holds already; it says where to look for more.
    speed = (gains.abs() * head.norms).sum(dim=2)
    low = torch.where(ahead > 0, ahead / speed, 0.0).amin(dim=1)
    open_ended = ~torch.isfinite(low) | (low == 0)
    base = torch.where(open_ended, 1.0, low)
    # Radii are base * 2**exponent; whatever is kept has been found to hold.
    kept, bad = torch.zeros_like(base), torch.full_like(base, 24.0)
    for _ in range(_HALVINGS):
        middle = (kept + bad) / 2
        tried = (base * middle.exp2())[:, None]
        holds = (_lead(head, hidden, ahead, gains, tried) > 0).all(dim=1)
        kept, bad = torch.where(holds, middle, kept), torch.where(holds, bad, middle)
    return torch.where(open_ended, low, base * kept.exp2())


def _leads(head: _Head, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden inputs `(n, h)`, leads `(n, k - 1)` and their `(n, k - 1, h)` weights."""
    logits = head.logits(points)
    n, classes = logits.shape
    best = logits.argmax(dim=1, keepdim=True)
    others = torch.arange(classes, device=best.device).expand(n, -1)
    rivals = others[others != best].reshape(n, classes - 1)
    ahead = logits.gather(1, best) - logits.gather(1, rivals)
    gains = head.outer[best] - head.outer[rivals]
    if classes == 1:  # nobody to lose to
        ahead = torch.full_like(logits, torch.inf)
        gains = torch.zeros_like(head.outer)[best]
    if head.inner is None:
        return points, ahead, gains
    assert head.shift is not None
    return points @ head.inner.T + head.shift, ahead, gains


def _lead(
    head: _Head, hidden: Tensor, ahead: Tensor, gains: Tensor, radius: Tensor
) -> Tensor:
    """`(n, k - 1)` lower bounds of the leads within `radius`, `(n, 1)`."""
    if head.inner is None:
        norms = torch.linalg.vector_norm(head.along(gains), dim=2)
        lead: Tensor = ahead - radius * norms
        return lead
    s, u = head.slope, hidden[:, None]
    reach = (radius * head.norms)[:, None]
    turns = u.abs() < reach
    rises, falls = turns & (gains > 0), turns & (gains < 0)
    tangent = s + (1 - s) * (u > 0).to(u)
    share = 0.5 - 0.5 * u.abs() / reach.clamp_min(1e-300)
    half = torch.where(falls, (1 - s) * share, 0.0)
    fixed = ahead - radius * head.largest(gains.abs() * half)
    # To the middle of the slopes of a falling unit: down from 1, or up from s.
    slopes = tangent - torch.where(u > 0, half, -half)
    best = torch.full_like(ahead, -torch.inf)
    for step in range(_STEPS):
        pull = (gains * slopes) @ head.root.T
        length = torch.linalg.vector_norm(pull, dim=2)
        lost = torch.where(rises, gains * (tangent - slopes) * u, 0.0).sum(dim=2)
        best = torch.maximum(best, fixed - lost - radius * length)
        # The bound is concave in the slopes.
        toward = pull / length.clamp_min(1e-300)[:, :, None] @ head.root
        rise = torch.where(rises, gains * (u - radius[:, :, None] * toward), 0.0)
        size = torch.linalg.vector_norm(rise, dim=2, keepdim=True).clamp_min(1e-300)
        moved = slopes + (1 - s) * rise / size / (1 + step) ** 0.5
        slopes = torch.where(rises, moved.clamp(s, 1.0), slopes)
    return best


def _pieces(head: _Head, points: Tensor) -> list[slice]:
    """Parts of the batch that bound the memory taken."""
    size = max(1, _WORKING_SET // (8 * head.outer.numel() + points.shape[1]))
    return [slice(at, at + size) for at in range(0, max(1, len(points)), size)]


def _read(head: nn.Module, directions: Tensor | None = None) -> _Head:
    """The weights of a head of a known kind."""
    if directions is not None:
        directions = directions.double()
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    kinds = [type(layer).__name__ for layer in layers]
    if kinds == ["Linear"]:
        return _Head(*_linear(layers[0]), directions=directions)
    if kinds not in (["Linear", "ReLU", "Linear"], ["Linear", "LeakyReLU", "Linear"]):
        raise UsageError(
            "head: expected a linear layer, or two with a ReLU or leaky ReLU between them,"
            f" got {', '.join(kinds) or 'none'}; use smoothing for other heads"
        )
    slope = float(getattr(layers[1], "negative_slope", 0.0))
    if not 0.0 <= slope <= 1.0:
        raise UsageError(f"head: expected a slope from 0 to 1, got {slope:g}")
    return _Head(*_linear(layers[2]), *_linear(layers[0]), slope, directions)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """`(outputs, inputs)` weight and `(outputs,)` bias, in float64."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach().double()
    if layer.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, layer.bias.detach().double()
