"""Understanding Domain Generalization: A Noise Robustness Perspective (Qiao & Low 2024, arXiv 2401.14846).

Domain generalisation (DG) methods seldom beat plain empirical risk minimisation (ERM). With label noise they might: an
over-parameterised ERM model memorises flipped labels, and that makes a spurious feature relatively cheap. Here are the paper's
two synthetic data sets, the losses that it compares, and a trainer that runs many of them side by side.

Labels are 0 or 1. A network has one output z, the logit of label 1, which equals the difference of the two outputs of a softmax.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from shared import labels
from shared.checks import finite as _checked

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Generator = np.random.Generator

CORE = 5  # entries of the toy's invariant block, and as many of its spurious one
VARIANCE = 0.25  # of each of them


# ---------------------------------------------------------------- the toy


class Toy(NamedTuple):
    """x (n, 10 + d) float32: five invariant entries, five spurious ones, d of nuisance. label, attribute: (n,), 0 or 1, clean."""

    x: NDArray[np.float32]
    label: Labels
    attribute: Labels


def toy(n: int, d: int, agreement: float, rng: Generator) -> Toy:
    """n points whose attribute agrees with the label in a share `agreement` of each class, in whole numbers.

    Raises ValueError when n agreement / 2 is no whole number, for an agreement outside [0, 1] or d < 1.
    """
    if not 0 <= agreement <= 1 or d < 1:
        raise ValueError(f"agreement must be in [0, 1] and d at least 1, not {agreement} and {d}")
    same = round(n * agreement / 2)
    if n < 2 or n % 2 or not np.isclose(same, n * agreement / 2):
        raise ValueError(f"n must be even, and n agreement / 2 whole, not n = {n} and agreement = {agreement}")
    label = np.repeat([1, 0], n // 2)
    attribute = np.where(np.tile(np.arange(n // 2) < same, 2), label, 1 - label)
    # x = [N(Y 1, .25 I_5), N(A 1, .25 I_5), N(0, I_d / d)], Y and A in {-1, 1}
    x = rng.standard_normal((n, 2 * CORE + d), np.float32)
    x[:, : 2 * CORE] *= VARIANCE**0.5
    x[:, :CORE] += 2 * label[:, None] - 1
    x[:, CORE : 2 * CORE] += 2 * attribute[:, None] - 1
    x[:, 2 * CORE :] /= d**0.5
    return Toy(x, label, attribute)


def flip(label: Labels, eta: float, u: Array) -> Labels:
    """label (n,), each flipped where its uniform number u (n,) is in the top share eta: what flips also flips at a higher eta."""
    return labels.corrupt(label, labels.uniform(2, eta), u)


def balanced(label: Labels, attribute: Labels, rng: Generator) -> NDArray[np.intp]:
    """Rows of equally many points of the four groups (label, attribute), as many of each as the smallest has, drawn at random.

    Raises ValueError when a group has no point.
    """
    group = 2 * np.asarray(label) + np.asarray(attribute)
    sizes = np.bincount(group, minlength=4)
    if len(sizes) > 4 or sizes.min() == 0:
        raise ValueError(f"each of the four groups of label and attribute needs a point, not {sizes.tolist()}")
    return np.concatenate([rng.permutation(np.flatnonzero(group == g))[: sizes.min()] for g in range(4)])


def fit_logistic(x: Array, y: Labels, decay: float) -> NDArray[np.float64]:
    """w (p,) of logistic regression without intercept: min over w of mean log-loss + decay |w|^2 / 2, by lbfgs.

    x (n, p), y (n,). Raises ValueError for decay <= 0, other shapes or a single class.
    """
    if decay <= 0:
        raise ValueError(f"decay must be positive, not {decay}")
    # scikit-learn: min |w|^2 / 2 + C sum_i loss_i, so C = 1 / (n decay)
    model = LogisticRegression(C=1 / (len(x) * decay), fit_intercept=False, max_iter=5000)
    return model.fit(x, y).coef_[0].astype(float)


def group_errors(w: Array) -> tuple[float, float]:
    """Expected errors on new points whose attribute (agrees, disagrees) with their clean label, of the linear rule w (10 + d,).

    Within a group the score is normal, so that no test point need be drawn; groups that differ in sign only have one error.
    Raises ValueError for a w of another shape, NaN or all zeros.
    """
    w = _checked("w", w, 1)
    if len(w) <= 2 * CORE or not w.any():
        raise ValueError(f"w must have more than {2 * CORE} entries, not all of them 0")
    invariant, spurious, nuisance = np.split(w, [CORE, 2 * CORE])
    # Y w.x ~ N(sum w_inv + A Y sum w_spu, .25 (|w_inv|^2 + |w_spu|^2) + |w_nuisance|^2 / d)
    spread = np.sqrt(VARIANCE * (w[: 2 * CORE] ** 2).sum() + (nuisance**2).mean())
    mean = invariant.sum() + np.array([1, -1]) * spurious.sum()
    agrees, disagrees = ndtr(-mean / spread)
    return float(agrees), float(disagrees)


# ---------------------------------------------------------------- environments


class Environments(NamedTuple):
    """x (E, n, p) float32; y (E, n), labels as given to a learner; clean (E, n), the true ones."""

    x: NDArray[np.float32]
    y: Labels
    clean: Labels


def coloured(images: Array, digits: Labels, eta: float, disagreement: float, rng: Generator) -> Environments:
    """One environment (E = 1) of coloured MNIST: y = [digit < 5], flipped with probability eta; then a colour after the noisy y.

    images (n, h, w) in 0..1, digits (n,); p = 2 h w: the picture in the channel of its colour, zeros in the other. disagreement:
    P(colour differs from y). The same rng gives the same uniform numbers whatever eta and disagreement are.
    Raises ValueError when shapes do not fit, or for a probability outside [0, 1].
    """
    images, digits = _checked("images", images, 3), np.asarray(digits)
    if digits.shape != images.shape[:1]:
        raise ValueError(f"digits must be one for each of {len(images)} images, not of shape {digits.shape}")
    if not 0 <= disagreement <= 1:
        raise ValueError(f"disagreement must be in [0, 1], not {disagreement}")
    clean = (digits < 5).astype(int)
    u_flip, u_colour = rng.random((2, len(images)))
    y = flip(clean, eta, u_flip)
    # colour = y XOR Bernoulli(e)
    colour = y ^ (u_colour < disagreement)
    x = images[:, None] * (colour[:, None] == np.arange(2))[..., None, None]  # (n, 2, h, w)
    return Environments(x.reshape(1, len(x), -1).astype(np.float32), y[None], clean[None])


class Split(NamedTuple):
    """What one run learns from, is chosen by and is judged by."""

    train: Environments
    within: Environments  # further points of the training environments, with noise
    chosen_by: Environments  # points of the test environment, without noise (E = 1)
    test: Environments  # the rest of it (E = 1)


def _stack(parts: Sequence[Environments]) -> Environments:
    return Environments(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def coloured_split(
    images: Array, digits: Labels, eta: float, rng: Generator, *, n: int, n_within: int, n_test: int, unlike: float = 0.9
) -> Split:
    """Coloured MNIST from images (N, h, w) and digits (N,): two training environments, colour unlike the label at .1 and .2.

    n, n_within of each, and twice n_test points of the test environment, where the colour is unlike the label at `unlike`.
    One rng gives the same digits and the same uniform numbers whatever eta and unlike are. Raises ValueError for too few images.
    """
    law = [(n, eta, 0.1), (n, eta, 0.2), (n_within, eta, 0.1), (n_within, eta, 0.2), (n_test, 0, unlike), (n_test, 0, unlike)]
    ends = np.cumsum([size for size, *_ in law])
    if ends[-1] > len(images):
        raise ValueError(f"{ends[-1]} images are asked for and {len(images)} given")
    rows = np.split(rng.permutation(len(images))[: ends[-1]], ends[:-1])
    parts = [coloured(images[r], digits[r], rate, e, rng) for r, (_, rate, e) in zip(rows, law, strict=True)]
    return Split(_stack(parts[:2]), _stack(parts[2:4]), *parts[4:])


def one_rater(ratings: NDArray[np.integer], clean: Labels, rng: Generator) -> Labels:
    """Labels (n,): is the rating of one person, drawn among those of ratings (n, k) that are not 0, positive?

    Where nobody's is, the clean label (n,). Raises ValueError for other shapes.
    """
    ratings, clean = np.asarray(ratings), np.asarray(clean)
    if ratings.ndim != 2 or clean.shape != ratings.shape[:1]:
        raise ValueError(f"ratings must have shape (n, k) and clean (n,), not {ratings.shape} and {clean.shape}")
    who = np.where(ratings != 0, rng.random(ratings.shape), -1).argmax(1)
    told = ratings[np.arange(len(clean)), who]
    return np.where(told == 0, clean, told > 0).astype(int)


def rated_domain(features: Array, opinion: Array, ratings: NDArray[np.integer], noise: str, rng: Generator) -> Environments:
    """Texts (E = 1) with features (n, p), whose clean label is the sign of their mean rating, opinion (n,).

    noise: "one rater" gives the label of one person of ratings (n, k); a number such as "0.25" is the share of flipped labels.
    """
    clean = (np.asarray(opinion) > 0).astype(int)
    y = one_rater(ratings, clean, rng) if noise == "one rater" else flip(clean, float(noise), rng.random(len(clean)))
    return Environments(_checked("features", features, 2)[None].astype(np.float32), y[None], clean[None])


def held_out_split(domains: Sequence[Environments], held: int, rng: Generator, *, n: int, n_within: int) -> Split:
    """Domains (E = 1, n_j, p) but one train, n points of each; n_within further ones of each, and as many of the held one, choose.

    Every entry of x is shifted and scaled to mean 0 and variance 1 over the training points. Raises ValueError for too few points
    or a `held` that is no place of a domain.
    """
    if held not in range(len(domains)):
        raise ValueError(f"held must be one of 0..{len(domains) - 1}, not {held}")
    if short := [d.y.shape[1] for d in domains if d.y.shape[1] <= n + n_within]:
        raise ValueError(f"each domain needs more than n + n_within = {n + n_within} points, not {min(short)}")

    def part(domain: Environments, rows: NDArray, y: Labels) -> Environments:
        return Environments(domain.x[:, rows], y[:, rows], domain.clean[:, rows])

    orders = [rng.permutation(d.y.shape[1]) for d in domains]
    others = [(d, order) for j, (d, order) in enumerate(zip(domains, orders, strict=True)) if j != held]
    test, order = domains[held], orders[held]
    train = _stack([part(d, o[:n], d.y) for d, o in others])
    split = Split(
        train,
        _stack([part(d, o[n : n + n_within], d.y) for d, o in others]),
        part(test, order[:n_within], test.clean),
        part(test, order[n_within:], test.clean),
    )
    mean, sd = train.x.mean((0, 1)), train.x.std((0, 1))
    return Split(*(e._replace(x=(e.x - mean) / sd) for e in split))


# ---------------------------------------------------------------- losses


def risks(z: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each run in each environment: z (R, E, n) logits, y (E, n) in [0, 1] -> (R, E)."""
    # R_e = mean_i log(1 + exp z_i) - y_i z_i
    return (functional.softplus(z) - y * z).mean(-1)


def slopes(z: Tensor, y: Tensor) -> Tensor:
    """d risk / d scale of the logits at scale 1: z (..., n), y broadcastable to it -> (...)."""
    # d/ds log(1 + exp s z) - y s z = (sigmoid(s z) - y) z
    return ((z.sigmoid() - y) * z).mean(-1)


def irm_penalty(z: Tensor, y: Tensor) -> Tensor:
    """IRM's squared slope, from two halves: z (R, E, n), y (E, n) -> (R,). Negative where the halves' slopes differ in sign."""
    # mean_e g_e(even points) g_e(odd points)
    return (slopes(z[..., ::2], y[..., ::2]) * slopes(z[..., 1::2], y[..., 1::2])).mean(-1)


def vrex_penalty(risk: Tensor) -> Tensor:
    """V-REx's variance of the risks over environments: (R, E) -> (R,)."""
    # mean_e (R_e - mean R)^2
    return ((risk - risk.mean(-1, keepdim=True)) ** 2).mean(-1)


def group_weights(q: Tensor, risk: Tensor, rate: Tensor) -> Tensor:
    """GroupDRO's next weights of environments: q, risk (R, E), rate (R,) -> (R, E), rows that sum to 1."""
    # q_e <- q_e exp(eta_q R_e) / sum
    q = q * torch.exp(rate[:, None] * risk.detach())
    return q / q.sum(-1, keepdim=True)


def mix(x: Tensor, y: Tensor, alpha: float, rng: Generator) -> tuple[Tensor, Tensor]:
    """Mixup across environments: each, shuffled, is blended with another one, one weight ~ Beta(alpha, alpha) a pair.

    x (E, n, p), y (E, n) -> the same shapes; the labels become shares, since cross-entropy is linear in them.
    """
    order = rng.permutation(len(x))
    other = np.empty_like(order)
    other[order] = np.roll(order, -1)  # environments in a random ring: nobody is paired with itself
    weight = torch.as_tensor(rng.beta(alpha, alpha, len(x)), dtype=x.dtype)[:, None]
    rows = torch.as_tensor(rng.permutation(x.shape[1]))
    # x = w x_i + (1 - w) x_j, loss = w CE(z, y_i) + (1 - w) CE(z, y_j)
    return weight[..., None] * x + (1 - weight[..., None]) * x[other][:, rows], weight * y + (1 - weight) * y[other][:, rows]


# ---------------------------------------------------------------- many runs side by side


class Setting(NamedTuple):
    """One run. weight: lambda of IRM and V-REx from step `anneal` on (1 before), or eta_q of GroupDRO. decay: of the weights."""

    loss: str = "ERM"  # or IRM, V-REx, GroupDRO
    weight: float = 0.0
    anneal: int = 0
    decay: float = 0.0


LOSSES = ("ERM", "IRM", "V-REx", "GroupDRO")


def setting(name: str, draw: dict[str, float], steps: int) -> Setting:
    """The setting of a method from a draw of the search, where anneal is a share of all steps. Mixup is ERM, on blended points."""
    loss = name.split(",")[0].replace("Mixup", "ERM")  # "ERM, stopped and decayed" is ERM
    return Setting(loss, draw.get("weight", 0.0), round(draw.get("anneal", 0) * steps), draw.get("decay", 0.0))


def last_mark(marks: Sequence[int], draw: dict[str, float]) -> int:
    """The place in marks where a run that stops early, after a share `stop` of all steps, is nearest to that; else the last."""
    return int(np.abs(np.array(marks) - draw.get("stop", 1) * marks[-1]).argmin())


class Nets(NamedTuple):
    """R networks of one hidden layer: (R, p, hidden), (R, 1, hidden), (R, hidden, 1), (R, 1, 1)."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def logits(nets: Nets, x: Tensor) -> Tensor:
    """x (n, p), the same for all networks -> logits of label 1, (R, n)."""
    inside = torch.relu(torch.baddbmm(nets.b1, x.expand(len(nets.w1), *x.shape), nets.w1))  # (R, n, hidden)
    return torch.baddbmm(nets.b2, inside, nets.w2)[..., 0]


def first_nets(p: int, hidden: int, runs: int, rng: torch.Generator) -> Nets:
    """`runs` copies of one network with weights and biases uniform in +- 1 / sqrt(fan-in)."""
    shapes = (p, hidden), (1, hidden), (hidden, 1), (1, 1)
    bounds = p**-0.5, p**-0.5, hidden**-0.5, hidden**-0.5
    drawn = [(2 * torch.rand(shape, generator=rng) - 1) * b for shape, b in zip(shapes, bounds, strict=True)]
    return Nets(*(one.expand(runs, *one.shape).clone().requires_grad_() for one in drawn))


def objective(z: Tensor, y: Tensor, settings: Sequence[Setting], step: int, q: Tensor) -> tuple[Tensor, Tensor]:
    """What each run minimises at a step (R,), and GroupDRO's weights after it (R, E). z (R, E, n), y (E, n), q (R, E)."""
    weight = torch.tensor([s.weight if step >= s.anneal or s.loss == "GroupDRO" else 1.0 for s in settings])
    irm, vrex, dro = (torch.tensor([s.loss == name for s in settings]) for name in LOSSES[1:])
    risk = risks(z, y)
    q = torch.where(dro[:, None], group_weights(q, risk, weight * dro), q)  # others keep equal weights: the mean risk
    # mean_e R_e, or sum_e q_e R_e, + lambda penalty
    total = (q * risk).sum(-1)
    total = total.index_add(0, irm.nonzero()[:, 0], weight[irm] * irm_penalty(z[irm], y))
    return total.index_add(0, vrex.nonzero()[:, 0], weight[vrex] * vrex_penalty(risk[vrex])), q


def train(
    data: Environments,
    settings: Sequence[Setting],
    rng: torch.Generator,
    *,
    hidden: int,
    lr: float,
    marks: Sequence[int],
    mixing: tuple[float, Generator] | None = None,
) -> list[Nets]:
    """The networks of all settings after each number of steps in `marks`, increasing; full-batch Adam on all environments.

    All runs of a call start from the same weights and do not touch each other. mixing: (alpha, rng) trains them on Mixup's blends.
    Raises ValueError for an unknown loss, fewer than two environments, unequal shapes, labels other than 0 and 1, or no marks.
    """
    if unknown := {s.loss for s in settings} - set(LOSSES):
        raise ValueError(f"settings: loss must be one of {', '.join(LOSSES)}, not {', '.join(sorted(unknown))}")
    x, y = torch.as_tensor(_checked("data.x", data.x, 3), dtype=torch.float32), torch.as_tensor(_checked("data.y", data.y, 2))
    if x.shape[:2] != y.shape or len(x) < 2 or not ((y == 0) | (y == 1)).all():
        raise ValueError(f"data must be two or more environments (E, n, p) with labels (E, n) of 0 and 1, not {tuple(x.shape)}")
    if not len(marks) or not len(settings) or (np.diff([0, *marks]) <= 0).any():
        raise ValueError("settings and marks must not be empty, and marks must increase")
    y = y.float()
    nets = first_nets(x.shape[-1], hidden, len(settings), rng)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in nets]
    q, age = torch.full((len(settings), len(x)), 1 / len(x)), torch.zeros(len(settings))
    anneal, decay = torch.tensor([s.anneal for s in settings]), torch.tensor([s.decay for s in settings])
    found = []
    for step in range(marks[-1]):
        age = torch.where(anneal == step, 0.0, age) + 1  # a run's Adam begins anew when its penalty sets in
        x_now, y_now = mix(x, y, *mixing) if mixing else (x, y)
        z = logits(nets, x_now.flatten(0, 1)).unflatten(1, y.shape)  # (R, E, n)
        loss, q = objective(z, y_now, settings, step, q)
        adam(nets, torch.autograd.grad(loss.sum(), nets), moments, age, decay, lr)
        if step + 1 in marks:
            found.append(Nets(*(p.detach().clone() for p in nets)))
    return found


@torch.no_grad()
def adam(nets: Nets, slope: Sequence[Tensor], moments: list[tuple[Tensor, Tensor]], age: Tensor, decay: Tensor, lr: float) -> None:
    """One step of Adam in place, each run with its own decay (R,) and its own age (R,): 1 at a first step, when old moments go."""
    run = (-1, 1, 1)
    kept, first, second = (one.view(run) for one in ((age > 1).float(), 1 - 0.9**age, 1 - 0.999**age))
    for p, g, (m, v) in zip(nets, slope, moments, strict=True):
        g = g + decay.view(run) * p
        # m <- .9 m + .1 g, v <- .999 v + .001 g^2
        m.mul_(0.9 * kept).add_(g, alpha=0.1)
        v.mul_(0.999 * kept).addcmul_(g, g, value=0.001)
        # p <- p - lr m / (1 - .9^t) / (sqrt(v / (1 - .999^t)) + 1e-8)
        p -= lr * m / first / ((v / second).sqrt() + 1e-8)


# ---------------------------------------------------------------- what is measured


def accuracy(nets: Nets, x: Array, y: Labels) -> Array:
    """Share of x (n, p) that each network gives its label y (n,): (R,). Raises ValueError for no row or other shapes."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y must be equally long and not empty, not {len(x)} and {len(y)}")
    with torch.no_grad():
        return ((logits(nets, torch.as_tensor(x)) > 0).numpy() == np.asarray(y, bool)).mean(1)


def fitted(nets: Nets, data: Environments) -> tuple[Array, Array]:
    """(clean accuracy, memorisation), each (R,): share of right and of wrong training labels that a network predicts as given.

    The second is NaN when no label is wrong.
    """
    right, wrong = data.y == data.clean, data.y != data.clean
    memorised = accuracy(nets, data.x[wrong], data.y[wrong]) if wrong.any() else np.full(len(nets.w1), np.nan)
    return accuracy(nets, data.x[right], data.y[right]), memorised


def scores(found: Sequence[Nets], split: Split) -> Array:
    """(marks, R, 5) of networks after each mark: clean accuracy and memorisation on training points, accuracy on further points of
    the training environments (with noise), on those of the test environment that choose, and on its other ones (without noise).
    """

    def of(nets: Nets) -> Array:
        further = [accuracy(nets, e.x.reshape(-1, e.x.shape[-1]), e.y.ravel()) for e in split[1:]]
        return np.stack([*fitted(nets, split.train), *further], axis=1)

    return np.stack([of(nets) for nets in found])


def memorisation_at(clean: Array, memorised: Array, level: float) -> float:
    """Memorisation of a run (marks,) at the step where its clean accuracy (marks,) first reaches `level`, linear between marks.

    Below its first mark a coin answers for a share of the points, and below a half the answers are the opposite ones, so that every
    level up to the run's highest is met; above that its memorisation there is taken. Raises ValueError for unequal shapes, NaN or
    a level outside [0, 1].
    """
    clean, memorised = _checked("clean", clean, 1), _checked("memorised", memorised, 1)
    if clean.shape != memorised.shape:
        raise ValueError(f"clean and memorised must have one shape, not {clean.shape} and {memorised.shape}")
    if not 0 <= level <= 1:
        raise ValueError(f"level must be in [0, 1], not {level}")
    if level < 0.5:
        return 1 - memorisation_at(clean, memorised, 1 - level)
    clean, memorised = np.r_[0.5, clean], np.r_[0.5, memorised]  # before all steps, a coin
    first = np.r_[True, clean[1:] > np.maximum.accumulate(clean)[:-1]]  # marks at which a new height is reached
    return float(np.interp(level, clean[first], memorised[first]))


def matched_difference(rival: Array, run: Array) -> float:
    """Memorisation of a rival minus that of a run at one clean accuracy: both are curves (marks, 2) of (clean, memorised).

    The accuracy is the run's last, or, where the rival never gets that far, the rival's highest, which the run passed too.
    """
    level = min(run[-1, 0], rival[:, 0].max())
    own = run[-1, 1] if level == run[-1, 0] else memorisation_at(*run.T, level)
    return memorisation_at(*rival.T, level) - float(own)
