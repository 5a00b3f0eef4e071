"""Explaining time series with contrastive and locally sparse perturbations, ContraLSP (Liu et al., 2024).

A mask says which cells of a series a model needs: fill in the others, and the prediction must stay. ContraLSP learns the fill, and
learns the mask as noisy gates. Equations are numbered E1-E9 in the order of the method. Written from the paper and from reading the
authors' code, which carries no licence; nothing is copied from it.

S independent studies (a seed, a data set) are explained at once: x is (S, N, T, F), N series of T times and F channels each. A
black box f takes that and returns (S, N, ...). No parameter is shared between studies and Adam works number by number, so each
study comes out as if it were alone. Floats are of single precision.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor
from torch.nn.functional import log_softmax, relu

BlackBox = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # outputs and wanted outputs (S, N, ...) to (S, N)
Parameters = dict[str, Tensor]

EPSILON = 1e-5  # inside logarithms, as in the released code


def _series(name: str, x: Tensor) -> Tensor:
    """x as a batch of studies. Raises ValueError naming it."""
    if x.ndim != 4 or 0 in x.shape or not torch.isfinite(x).all():
        raise ValueError(f"{name} must be finite, not empty and of shape (S, N, T, F), not {tuple(x.shape)}")
    return x


# ---------------------------------------------------------------- networks, one per study


def _uniform(rng: torch.Generator, fan_in: int, *shape: int) -> Tensor:
    return ((2 * torch.rand(shape, generator=rng) - 1) / fan_in**0.5).requires_grad_()


def gru_parameters(studies: int, channels: int, hidden: int, rng: torch.Generator) -> Parameters:
    """Random weights of S bidirectional GRUs, F to hidden, each with a linear layer, 2 hidden to F; uniform as torch's."""
    sets = 2 * studies  # forward ones first, then backward ones
    return {
        "w_in": _uniform(rng, hidden, sets, channels, 3 * hidden), "b_in": _uniform(rng, hidden, sets, 1, 3 * hidden),
        "w_state": _uniform(rng, hidden, sets, hidden, 3 * hidden), "b_state": _uniform(rng, hidden, sets, 1, 3 * hidden),
        "w_out": _uniform(rng, 2 * hidden, studies, 2 * hidden, channels), "b_out": _uniform(rng, 2 * hidden, studies, 1, channels),
    }  # fmt: skip


def gru_states(x: Tensor, p: Parameters) -> Tensor:
    """States (S, N, T, 2 hidden) of the bidirectional GRU: what was read up to each time, and from the end back to it."""
    studies, n, times, channels = x.shape
    hidden = p["w_state"].shape[1]
    both = torch.cat([x, x.flip(2)]).transpose(1, 2)  # (2S, T, N, F)
    inputs = torch.baddbmm(p["b_in"], both.reshape(2 * studies, times * n, channels), p["w_in"])
    h, states = x.new_zeros(2 * studies, n, hidden), []
    for a in inputs.view(2 * studies, times, n, 3 * hidden).unbind(1):  # (2S, N, 3 hidden)
        b = torch.baddbmm(p["b_state"], h, p["w_state"])
        # E1: r, z = sigmoid(a + b);  n = tanh(a + r b);  h' = (1 - z) n + z h
        r, z = torch.sigmoid(a[..., : 2 * hidden] + b[..., : 2 * hidden]).chunk(2, -1)
        new = torch.tanh(torch.addcmul(a[..., 2 * hidden :], r, b[..., 2 * hidden :]))
        h = torch.lerp(new, h, z)
        states.append(h)
    forward, backward = torch.stack(states, dim=2).chunk(2)  # (S, N, T, hidden) each
    return torch.cat([forward, backward.flip(2)], dim=-1)


def learned_fill(x: Tensor, p: Parameters) -> Tensor:
    """What a cell is replaced by, r (S, N, T, F): a linear map of the GRU's states."""
    states = gru_states(x, p)
    # E2: r = phi(x)
    return torch.baddbmm(p["b_out"], states.flatten(1, 2), p["w_out"]).view(x.shape)


def trend_parameters(studies: int, channels: int, times: int, rng: torch.Generator, hidden: int = 32) -> Parameters:
    """Random weights of one network T to 32 to T per study and channel."""
    return {
        "w_down": _uniform(rng, times, studies, channels, times, hidden),
        "b_down": _uniform(rng, times, studies, channels, 1, hidden),
        "w_up": _uniform(rng, hidden, studies, channels, hidden, times),
        "b_up": _uniform(rng, hidden, studies, channels, 1, times),
    }


def trend(x: Tensor, p: Parameters) -> Tensor:
    """tau(x), (S, N, T, F): each channel's network sees that channel of one series, all times at once."""
    channels = x.permute(0, 3, 1, 2)  # (S, F, N, T)
    out = relu(channels @ p["w_down"] + p["b_down"]) @ p["w_up"] + p["b_up"]
    return out.permute(0, 2, 3, 1)


# ---------------------------------------------------------------- the terms of the loss


def gate(v: Tensor, slope: Tensor | None) -> Tensor:
    """Gate values before clipping, any shape: v, or v smoothed by the trend network's output."""
    # E3: v' = v sigmoid(v tau(x))
    return v if slope is None else v * torch.sigmoid(v * slope)


def expected_open(v: Tensor, sigma: float) -> Tensor:
    """Share of gates that are open, mean over series: (S, N, T, F) to (S,), in [0, 1]. sigma > 0 is the noise's spread."""
    # E4: R = mean Phi(v' / sigma)
    return torch.special.ndtr(v / sigma).flatten(1).mean(1)


def squared_error(y: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each series: (S, N, ...) twice to (S, N)."""
    return (y - wanted).square().flatten(2).mean(2)


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy to the wanted logits' own probabilities, nats: (S, N, classes) twice to (S, N)."""
    return -(log_softmax(wanted, -1).exp() * log_softmax(logits, -1)).sum(-1)


def two_means(points: Tensor, rounds: int = 10) -> Tensor:
    """Two clusters per study: (S, N, D) to membership in the first (S, N), boolean.

    Lloyd's rounds from two far rows: the one farthest from the mean, and the one farthest from that.
    """

    def farthest(centre: Tensor) -> Tensor:
        far = (points - centre).square().sum(-1).argmax(1)
        return points[torch.arange(len(points)), far].unsqueeze(1)  # (S, 1, D)

    first = farthest(points.mean(1, keepdim=True))
    centres = torch.cat([first, farthest(first)], dim=1)  # (S, 2, D)
    for _ in range(rounds):
        member = torch.cdist(points, centres).argmin(-1) == 0  # (S, N)
        weights = torch.stack([member, ~member], dim=1).float()  # (S, 2, N)
        centres = weights @ points / weights.sum(-1, keepdim=True).clamp(min=1)
    return member


def _first_few(score: Tensor, among: Tensor, skip: int = 0) -> Tensor:
    """Marks, (S, N), of the size // 5 + 1 (at most 50) rows of least score `among` some, after `skip` of them."""
    rank = score.masked_fill(~among, torch.inf).argsort(1).argsort(1)
    few = (among.sum(1, keepdim=True) // 5 + 1).clamp(max=50)
    return among & (rank >= skip) & (rank < few + skip)


def triplet(r: Tensor, member: Tensor, rng: torch.Generator, margin: float = 0.0) -> Tensor:
    """Contrastive loss of fills (S, N, T, F), given clusters (S, N): (S,), at least 0. Fills are drawn to the opposite cluster.

    The anchor is the row nearest its cluster's centre, positives are the next nearest of its own, negatives are drawn from the
    other. A cluster with fewer than two rows adds nothing. Gradients reach the distances, not the choice of rows.
    """
    points, total = r.flatten(2), 0.0  # (S, N, D)
    for own in (member, ~member):
        centre = (points.detach() * own.unsqueeze(-1)).sum(1, keepdim=True) / own.sum(1).clamp(min=1).view(-1, 1, 1)
        off_centre = (points.detach() - centre).norm(dim=-1)
        anchor = off_centre.masked_fill(~own, torch.inf).argmin(1)
        apart = (points - points[torch.arange(len(points)), anchor].unsqueeze(1)).abs().mean(-1)  # (S, N)
        positive = _first_few(off_centre, own, skip=1)
        negative = _first_few(torch.rand(own.shape, generator=rng), ~own)
        plus, minus = ((apart * rows).sum(1) / rows.sum(1).clamp(min=1) for rows in (positive, negative))
        # E5: L = 1/2 sum over clusters of max(0, D- - D+ - margin)
        counts = (own.sum(1) >= 2) & negative.any(1)
        total = total + relu(minus - plus - margin) * counts / 2
    return total


# ---------------------------------------------------------------- explanations


class Explanation(NamedTuple):
    """Masks and fills, (S, N, T, F); masks in [0, 1], noiseless. hinge: the triplet term, mean over steps, (S,)."""

    mask: Tensor
    fill: Tensor
    hinge: Tensor


def explain(
    f: BlackBox, x: Tensor, rng: torch.Generator, *, loss: Loss = squared_error, gates: bool = True, noisy: bool = True,
    trends: Literal["series", "shuffled", "none"] = "series", fill: Literal["learned", "zero"] = "learned",
    contrast: Literal["none", "clusters", "permuted"] = "none", sparsity: float | Tensor = 0.1, size: float | Tensor = 0.1,
    margin: float = 0.0, sigma: float = 0.5, hidden: int | None = None, steps: int = 200, rate: float = 0.1,
) -> Explanation:  # fmt: skip
    """Learn masks of x (S, N, T, F) so that f keeps its output. The defaults are the released ContraLSP.

    gates: stochastic gates; False: a clipped mask without trend or noise, its size the mean of |mu|, which is Extremal Mask. noisy:
    noise while learning. trends: what the trend network sees; shuffled: the series with its times in another order, fixed, for each
    series. contrast: the triplet term with gradients, over clusters of the fills or over permuted ones; none: as released, whose
    triplet term has no gradient. sparsity, size: weights of the mask's and the fill's size, >= 0, one number or one per study (S,).
    hidden: GRU states, F where None. loss: per series, as squared_error. Raises ValueError for x that is no batch of studies or is
    not finite, and for sigma, steps or rate <= 0.
    """
    _series("x", x)
    for name, value in {"sigma": sigma, "steps": steps, "rate": rate}.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, not {value}")
    studies, _, times, channels = x.shape
    mu = torch.full(x.shape, 0.5, requires_grad=True)
    phi = gru_parameters(studies, channels, hidden or channels, rng) if fill == "learned" else {}
    tau = trend_parameters(studies, channels, times, rng) if gates and trends != "none" else {}
    seen = _shuffled(x, rng) if trends == "shuffled" else x
    wanted = f(x).detach()

    def opened(noise: Tensor | float) -> tuple[Tensor, Tensor]:
        """Gate values before clipping, without and with noise."""
        slope = trend(seen, tau) if tau else None
        # E6: v = mu + 1/2 + sigma e
        return gate(mu + 0.5, slope), gate(mu + 0.5 + sigma * noise, slope)

    adam = torch.optim.Adam([mu, *phi.values(), *tau.values()], lr=rate)
    hinges = torch.zeros(studies)
    for _ in range(steps):
        r = learned_fill(x, phi) if phi else torch.zeros_like(x)
        if gates:
            still, v = opened(torch.randn(x.shape, generator=rng) if noisy else 0.0)
            area = expected_open(still, sigma)
        else:
            v = mu
            area = mu.abs().flatten(1).mean(1)  # not clipped, so that a cell that was closed can open again
        m = v.clamp(0, 1)
        # E7: x1 = m x + (1 - m) r
        kept = loss(f(torch.lerp(r, x, m)), wanted).mean(1)
        # E8: L = L_main + lambda_1 R + lambda_2 (mean |r| + triplet)
        near = r.abs().flatten(1).mean(1)
        if contrast != "none":
            hinge = triplet(r, _clusters(r, contrast, rng), rng, margin)
            hinges += hinge.detach() / steps
            near = near + hinge
        adam.zero_grad()
        (kept + sparsity * area + size * near).sum().backward()
        adam.step()
    with torch.no_grad():
        mask = (opened(0.0)[0] if gates else mu).clamp(0, 1)
        r = learned_fill(x, phi) if phi else torch.zeros_like(x)
    return Explanation(mask.detach(), r, hinges)


def _clusters(r: Tensor, contrast: str, rng: torch.Generator) -> Tensor:
    member = two_means(r.detach().flatten(2))
    return member.gather(1, torch.rand(member.shape, generator=rng).argsort(1)) if contrast == "permuted" else member


def _shuffled(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each series with its times in an order of its own: one order for all would be learned by the network."""
    order = torch.rand(x.shape[:3], generator=rng).argsort(2)
    return x.gather(2, order.unsqueeze(-1).expand(x.shape))


released = explain
contrastive = partial(explain, contrast="clusters")
extremal = partial(explain, gates=False)
zero_fill = partial(explain, fill="zero")


def blurred(x: Tensor, width: float = 2.0) -> Tensor:
    """Each channel under a Gaussian window of standard deviation `width` in samples, normalised at the ends too: x's shape."""
    t = torch.arange(x.shape[2], dtype=x.dtype)
    window = torch.softmax(-((t[:, None] - t) ** 2) / (2 * width**2), dim=1)  # (T, T)
    return torch.einsum("ts,ijsf->ijtf", window, x)


def dynamask(
    f: BlackBox,
    x: Tensor,
    areas: list[float],
    *,
    loss: Loss = squared_error,
    width: float = 2.0,
    steps: int = 200,
    rate: float = 0.1,
) -> Tensor:
    """Dynamask, (S, N, T, F) in [0, 1]: fade to a blurred copy, a wanted area per mask, and the area of least error per series.

    areas: shares in (0, 1) of cells that a mask may keep. Raises ValueError for x that is no batch of studies, or other areas.
    """
    _series("x", x)
    if not areas or min(areas) <= 0 or max(areas) >= 1:
        raise ValueError(f"areas must lie in (0, 1), not {areas}")
    wanted, faded, cells = f(x).detach(), blurred(x, width), x[0, 0].numel()
    least = torch.full(x.shape[:2], torch.inf)
    best = torch.zeros_like(x)
    for area in areas:
        mask = torch.full(x.shape, 0.5, requires_grad=True)
        adam = torch.optim.Adam([mask], lr=rate)
        goal = (torch.arange(cells) >= round((1 - area) * cells)).float()
        for step in range(steps):
            error = loss(f(torch.lerp(faded, x, mask)), wanted)  # (S, N)
            # E9: error + w |sort(m) - goal|^2, the weight w growing from 0.1 to 10
            off_area = (mask.flatten(2).sort(2).values - goal).square().mean(2)
            adam.zero_grad()
            (error + 0.1 * 100 ** (step / steps) * off_area).sum().backward()
            adam.step()
            mask.data.clamp_(0, 1)
        error = loss(f(torch.lerp(faded, x, mask)), wanted).detach()
        best = torch.where((error < least)[..., None, None], mask.detach(), best)
        least = torch.minimum(error, least)
    return best


def occlusion(score: BlackBox, x: Tensor) -> Tensor:
    """|change of the score (S, N) when a cell is set to 0|, (S, N, T, F)."""
    _series("x", x)
    before, out = score(x), torch.zeros_like(x)
    for t in range(x.shape[2]):
        for c in range(x.shape[3]):
            without = x.clone()
            without[..., t, c] = 0
            out[..., t, c] = (before - score(without)).abs()
    return out.detach()


def integrated_gradients(score: BlackBox, x: Tensor, points: int = 20) -> Tensor:
    """|x times the mean gradient of the score (S, N) on the way from 0 to x|, midpoint rule: (S, N, T, F)."""
    _series("x", x)
    total = torch.zeros_like(x)
    for k in range(points):
        here = (x * (k + 0.5) / points).requires_grad_()
        total += torch.autograd.grad(score(here).sum(), here)[0]
    return (x * total / points).abs()


def scaled(score: Tensor) -> Tensor:
    """Scores (S, N, T, F) of each series brought to [0, 1], its least and greatest to 0 and 1 (all 0 where they are equal)."""
    flat = score.flatten(2)
    low, high = flat.min(2).values[..., None, None], flat.max(2).values[..., None, None]
    return (score - low) / (high - low).clamp(min=1e-12)


# ---------------------------------------------------------------- white boxes


def rare(
    setting: Literal["rare time", "rare feature", "two groups"],
    n: int,
    times: int,
    channels: int,
    few: int,
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray, NDArray]:
    """Series (n, times, channels), the cells that matter (same shape, 0 or 1), and who gets the squared sum, (n,) boolean.

    rare time: `few` neighbouring times of the middle half of the channels. rare feature: `few` channels over the middle half of
    the times. two groups: each half of the series has few channels of its own, and the first half has the earlier half of the times
    and a squared sum in place of a sum of squares. Raises ValueError for another setting, or few larger than what it is of.
    """
    if not 1 <= few < min(times, channels):
        raise ValueError(f"few must be at least 1 and less than times and channels, not {few}")
    # y_t = e_t - 0.25 y_(t-1) - 0.1 y_(t-2) - 0.05 y_(t-3)
    x = lfilter([2], [2, 0.5, 0.2, 0.1], rng.standard_normal((n, times, channels)), axis=1)
    salient, summed = np.zeros(x.shape), np.zeros(n, bool)
    first, second = (rng.permutation(channels)[:few] for _ in range(2))
    middle = slice(times // 4, 3 * times // 4)
    if setting == "rare time":
        start = rng.integers(times - few + 1)
        salient[:, start : start + few, channels // 4 : 3 * channels // 4] = 1
    elif setting == "rare feature":
        salient[:, middle, first] = 1
    elif setting == "two groups":
        salient[: n // 2, : times // 2, first] = 1
        salient[n // 2 :, middle, second] = 1
        summed[: n // 2] = True
    else:
        raise ValueError(f"setting must be rare time, rare feature or two groups, not {setting!r}")
    return x, salient, summed


def white_box(x: Tensor, salient: Tensor, summed: Tensor) -> Tensor:
    """Outputs (S, N, T) of x (S, N, T, F): per time the sum of squares of the salient cells, or where summed the squared sum."""
    cells = x * salient
    return torch.where(summed.unsqueeze(-1), cells.sum(-1).square(), cells.square().sum(-1))


# ---------------------------------------------------------------- trained classifiers


def fit_classifier(
    x: Tensor, y: Tensor, rng: torch.Generator, *, filters: int = 8, width: int = 5, steps: int = 150, rate: float = 0.01
) -> Parameters:
    """One small convolutional classifier of two classes per study: x (S, n, T, F), y (S, n) of 0 and 1; Adam, full batch.

    Two layers of `filters` filters, `width` samples wide, then one linear layer over all places. Raises ValueError for bad x or y.
    """
    studies, n, times, channels = _series("x", x).shape
    if y.shape != (studies, n) or not ((y == 0) | (y == 1)).all():
        raise ValueError(f"y must hold 0 and 1 in shape {(studies, n)}, not {tuple(y.shape)}")
    places = times - 2 * (width - 1)
    if places < 1:
        raise ValueError(f"width {width} is too wide for {times} times")
    p = {
        "w_1": _uniform(rng, channels * width, studies, channels * width, filters), "b_1": torch.zeros(studies, 1, filters),
        "w_2": _uniform(rng, filters * width, studies, filters * width, filters), "b_2": torch.zeros(studies, 1, filters),
        "w_3": _uniform(rng, filters * places, studies, filters * places, 2), "b_3": torch.zeros(studies, 1, 2),
    }  # fmt: skip
    adam = torch.optim.Adam([w.requires_grad_() for w in p.values()], lr=rate, weight_decay=1e-3)
    wanted = torch.nn.functional.one_hot(y.long(), 2)
    for _ in range(steps):
        adam.zero_grad()
        (-(wanted * log_softmax(classify(p, x), -1)).sum(-1).mean(1)).sum().backward()
        adam.step()
    return {name: w.detach() for name, w in p.items()}


def classify(p: Parameters, x: Tensor) -> Tensor:
    """Logits (S, N, 2) of series (S, N, T, F)."""
    studies, n = x.shape[:2]
    for w, b in (("w_1", "b_1"), ("w_2", "b_2")):
        width = p[w].shape[1] // x.shape[3]
        windows = x.unfold(2, width, 1).flatten(3)  # (S, N, T - width + 1, F width)
        x = relu(torch.baddbmm(p[b], windows.flatten(1, 2), p[w])).view(studies, n, windows.shape[2], -1)
    return torch.baddbmm(p["b_3"], x.flatten(2), p["w_3"])


def plant(
    x: NDArray, y: NDArray, kind: Literal["bump", "gap"], start: int, width: int, height: float = 2.0
) -> tuple[NDArray, NDArray]:
    """Series (n, T) with something planted where y (n,) is 1, and the cells that tell the classes apart, (T,) of 0 and 1.

    bump: half a sine of that height is added to `width` samples from `start` on. gap: these samples become 0, the series' mean.
    Raises ValueError for another kind, and for a place outside the series.
    """
    if not 0 <= start <= start + width <= x.shape[1] or width < 1:
        raise ValueError(f"start and width, {start} and {width}, must lie inside the {x.shape[1]} times")
    out, place = x.copy(), np.zeros(x.shape[1])
    place[start : start + width] = 1
    if kind == "bump":
        out[y == 1, start : start + width] += height * np.sin(np.pi * (np.arange(width) + 0.5) / width)
    elif kind == "gap":
        out[y == 1, start : start + width] = 0
    else:
        raise ValueError(f"kind must be bump or gap, not {kind!r}")
    return out, place


# ---------------------------------------------------------------- measures


def area_precision_recall(mask: NDArray, salient: NDArray) -> tuple[float, float]:
    """AUP and AUR in [0, 1]: precision and recall of {mask >= threshold}, integrated over thresholds from 0 to 1.

    mask: cells in [0, 1]; salient: 0 or 1, same shape, all cells taken together. Both curves are step functions of the threshold
    and are integrated as such; past the greatest mask nothing is chosen, precision counts as 1 and recall as 0. So AUR is the mean
    mask of the salient cells. Raises ValueError for masks outside [0, 1], and where no cell is salient.
    """
    m, s = np.ravel(mask).astype(float), np.ravel(salient).astype(bool)
    if m.shape != s.shape or not ((m >= 0) & (m <= 1)).all():
        raise ValueError("mask must lie in [0, 1] and have the shape of salient")
    if not s.any():
        raise ValueError("salient marks no cell, so there is no recall")
    order = np.argsort(m, kind="stable")
    steps = np.diff(m[order], prepend=0.0)  # threshold in (m[i-1], m[i]] chooses cells i and after
    hits = np.cumsum(s[order][::-1])[::-1]
    precision = hits / np.arange(len(m), 0, -1)
    return float(steps @ precision + 1 - m.max()), float(steps @ hits / s.sum())


def information(mask: NDArray, salient: NDArray) -> float:
    """Bits over the salient cells, sum of |log2(1 - m)|: large when masks are near 1 where they should be."""
    return float(np.abs(np.log2(1 - mask[salient == 1] + EPSILON)).sum())


def mask_entropy(mask: NDArray, salient: NDArray) -> float:
    """Bits over the salient cells, sum of the binary entropy of m: 0 for a mask of zeros and ones, up to one a cell."""
    m = mask[salient == 1]
    return float((m * np.abs(np.log2(m + EPSILON)) + (1 - m) * np.abs(np.log2(1 - m + EPSILON))).sum())


def top_cells(score: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """The cells of greatest score of each series, boolean (S, N, T, F); round(share T F) each, ties drawn at random.

    Raises ValueError when the share, in (0, 1), leaves or takes no cell.
    """
    flat = _series("score", score).flatten(2)
    count = round(share * flat.shape[2])
    if not 0 < count < flat.shape[2]:
        raise ValueError(f"share {share} chooses {count} of {flat.shape[2]} cells")
    mixed = torch.rand(flat.shape, generator=rng).argsort(2)
    order = flat.gather(2, mixed).argsort(dim=2, descending=True, stable=True)[..., :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter(2, mixed.gather(2, order), True).view(score.shape)


def nearest_other(x: Tensor, label: Tensor, train: Tensor, train_label: Tensor) -> Tensor:
    """For each series (S, N, T, F) of a class (S, N) the nearest training series (S, n, T, F) of another class (S, n)."""
    distance = torch.cdist(x.flatten(2), train.flatten(2))  # (S, N, n)
    nearest = distance.masked_fill(label.unsqueeze(2) == train_label.unsqueeze(1), torch.inf).argmin(2)
    return train[torch.arange(len(x)).unsqueeze(1), nearest]


def after_deletion(f: BlackBox, x: Tensor, cells: Tensor, replacement: Tensor) -> tuple[Tensor, Tensor]:
    """What f (logits) says of its own class when `cells` (boolean) are replaced: cross entropy in nats and hits, (S, N) each."""
    label = f(x).argmax(-1)
    logits = f(torch.where(cells, replacement, x))
    return -log_softmax(logits, -1).gather(-1, label.unsqueeze(-1)).squeeze(-1), (logits.argmax(-1) == label).float()


def off_the_data(x: Tensor, real: Tensor, train: Tensor, k: int = 5) -> Tensor:
    """Mean distance of x (S, N, T, F) to its k nearest training series, over that of real series, (S,); 1 is as near as those."""
    near = [torch.cdist(rows.flatten(2), train.flatten(2)).topk(k, largest=False).values.mean((1, 2)) for rows in (x, real)]
    return near[0] / near[1]
