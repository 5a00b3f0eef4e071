"""Imbalanced classification through the lens of spurious correlations (Hackstein & Bender 2025, arXiv 2510.27650).

Students are trained on a rare class 1 and a frequent class 0, in pictures that also carry a confounder c, mildly correlated with
the class. Counterfactual Knowledge Distillation (CFKD; Bender et al. 2023, arXiv 2310.01011) changes pictures until the student
changes its mind, asks a teacher whether the class has changed, and gives the student those where it has not, with the class that
they still have.

R students are trained side by side: every tensor of a student, and of what it learns from, begins with an axis of R runs. Pictures
are flat, in 0..1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

Pictures = NDArray[np.floating]
TRUE, FALSE, OOD = 1, 0, -1  # a teacher's answers: the class has changed, it has not, the picture is neither


# ---------------------------------------------------------------- editors: a picture with c = 0 or 1


def thickness(x: Pictures, c: int) -> Pictures:
    """Thinner (c = 0) or thicker (c = 1) strokes, by the smallest or largest of 2 x 2 pixels; x (n, side, side)."""
    _editable(x, c)
    return (ndimage.minimum_filter, ndimage.maximum_filter)[c](x, (1, 2, 2))


def thickness_by_level(x: Pictures, c: int) -> Pictures:
    """The same by another operator: the level sets of a blurred picture, high (c = 0) or low (c = 1); x (n, side, side)."""
    _editable(x, c)
    blurred = ndimage.gaussian_filter(x, (0, 0.8, 0.8))
    return np.clip((blurred - (0.4, 0.1)[c]) / 0.25, 0, 1)


TAG, OTHER_TAG = np.ones((2, 3)), np.array([[1, 1], [1, 0], [1, 1]])
MARK = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]])  # R
OTHER_MARK = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])  # L


def tag(x: Pictures, c: int, shape: NDArray = TAG) -> Pictures:
    """A bright tag in the upper right (c = 0) or upper left corner (c = 1), one pixel from the border; x (n, side, side)."""
    _editable(x, c)
    return _stamped(x, shape, slice(1, 1 + shape.shape[1]) if c else slice(-1 - shape.shape[1], -1))


def mark(x: Pictures, c: int, shape: NDArray = MARK) -> Pictures:
    """Nothing (c = 0) or a scanner's letter in the upper left corner (c = 1); x (n, side, side)."""
    _editable(x, c)
    return _stamped(x, shape, slice(1, 1 + shape.shape[1])) if c else x.copy()


def _stamped(x: Pictures, shape: NDArray, columns: slice) -> Pictures:
    x = x.copy()
    part = x[:, 1 : 1 + len(shape), columns]
    part[:, shape > 0] = 1
    return x


def _editable(x: Pictures, c: int) -> None:
    if np.ndim(x) != 3 or not np.size(x) or not np.isfinite(x).all() or np.min(x) < 0 or np.max(x) > 1:
        raise ValueError(f"x must be pictures (n, side, side) with values in 0..1, not of shape {np.shape(x)}")
    if c not in (0, 1):
        raise ValueError(f"c must be 0 or 1, not {c}")


# ---------------------------------------------------------------- what a student learns from


class Strata(NamedTuple):
    """Rows of a pool of pictures, by K strata; stratum k holds pictures of class k % 2 and is drawn from with its own share."""

    rows: Tensor  # (R, K, most) int64; those of a stratum come first, the others are not used
    size: Tensor  # (R, K) int64
    share: Tensor  # (R, K), sums to 1


def imbalanced(of_class: Sequence[NDArray], n: Sequence[int], total: int, agree: int = 4) -> list[NDArray]:
    """Rows of class 0 and of class 1, n[0] and n[1] of them, in a pool of `total` pictures with c = 0 and then the same with c = 1.

    of_class: pictures of either class in a drawn order, of which the first are taken, so that sets of one order are nested.
    c differs from the class in every `agree`-th picture of a class: P(c = y) = 1 - 1 / agree whatever n is.
    Raises ValueError when a class has too few pictures.
    """
    if any(not 1 <= wanted <= len(rows) for rows, wanted in zip(of_class, n, strict=True)):
        raise ValueError(f"n = {n} pictures cannot be drawn from classes of {[len(rows) for rows in of_class]}")
    taken = []
    for y, (rows, wanted) in enumerate(zip(of_class, n, strict=True)):
        conflicts = np.arange(wanted) % agree == agree - 1
        taken.append(rows[:wanted] + total * np.where(conflicts, 1 - y, y))
    return taken


def strata(lists: Sequence[Sequence[NDArray]], share: Tensor | None = None) -> Strata:
    """Strata of R runs from K lists of rows each; without `share` (R, K) every row is as likely as any other.

    Raises ValueError when runs have different K, or a stratum with a share has no rows.
    """
    if len({len(run) for run in lists}) != 1:
        raise ValueError("lists must have the same number of strata in every run")
    size = torch.tensor([[len(rows) for rows in run] for run in lists])
    rows = torch.zeros(*size.shape, int(size.max()), dtype=torch.int64)
    for r, run in enumerate(lists):
        for k, found in enumerate(run):
            rows[r, k, : len(found)] = torch.as_tensor(found)
    share = size / size.sum(1, keepdim=True) if share is None else share
    if share.shape != size.shape or ((size == 0) & (share > 0)).any():
        raise ValueError("share must be (R, K), and 0 where a stratum has no rows")
    return Strata(rows, size, share)


def draw(from_: Strata, u: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and classes (R, b) of a batch, by uniform numbers u (R, b, 2): one for the stratum, one for the row."""
    edges = from_.share.cumsum(1)[:, :-1].contiguous()  # (R, K - 1)
    k = torch.searchsorted(edges, u[..., 0].contiguous(), right=True)  # (R, b)
    at = (u[..., 1] * from_.size.gather(1, k)).long()
    run = torch.arange(len(k))[:, None]
    return from_.rows[run, k, at], k % 2


# ---------------------------------------------------------------- students


class Student(NamedTuple):
    """R dense nets with two hidden layers."""

    w1: Tensor  # (R, pixels, wide)
    b1: Tensor  # (R, 1, wide)
    w2: Tensor  # (R, wide, hidden)
    b2: Tensor  # (R, 1, hidden)
    w3: Tensor  # (R, hidden, 1)
    b3: Tensor  # (R, 1, 1)


def start(pixels: int, rngs: Sequence[torch.Generator], wide: int = 48, hidden: int = 24) -> Student:
    """Students, one for each generator, uniform in +-1/sqrt(inputs). Raises ValueError without generators."""
    if not rngs:
        raise ValueError("rngs must hold a generator for each student")
    shapes = (pixels, wide), (1, wide), (wide, hidden), (1, hidden), (hidden, 1), (1, 1)
    inputs = pixels, pixels, wide, wide, hidden, hidden

    def drawn(shape: tuple[int, int], n: int) -> Tensor:
        return torch.stack([(2 * torch.rand(shape, generator=rng) - 1) * n**-0.5 for rng in rngs])

    return Student(*map(drawn, shapes, inputs))


def take(student: Student, runs: Tensor) -> Student:
    """The students of these runs (R',)."""
    return Student(*(p[runs] for p in student))


def features(student: Student, x: Tensor) -> Tensor:
    """x (R, n, pixels) -> the last hidden layer (R, n, hidden)."""
    seen = functional.relu(torch.baddbmm(student.b1, x, student.w1))  # (R, n, wide)
    return functional.relu(torch.baddbmm(student.b2, seen, student.w2))


def scores(student: Student, x: Tensor) -> Tensor:
    """x (R, n, pixels) -> log odds of class 1 (R, n)."""
    return torch.baddbmm(student.b3, features(student, x), student.w3)[..., 0]


class Loss(NamedTuple):
    """How the losses of R runs differ from cross-entropy; see `losses`."""

    weight: Tensor  # (R, 2) of the classes
    gamma: Tensor  # (R,) focal exponent
    shift: Tensor  # (R,) added to the log odds while learning
    decay: Tensor  # (R,) L2 penalty


def loss(shares: Tensor, *, power=0.0, gamma=0.0, tau=0.0, decay=0.0) -> Loss:
    """The loss of R runs whose classes have these shares (R, 2); the other arguments are numbers, or (R,) for one of each run.

    power: 1 weighs a class by the inverse of its share, 0.5 by its root. gamma: of the focal loss (Lin et al. 2017). tau: of logit
    adjustment (Menon et al. 2021). decay: L2 penalty. Raises ValueError when shares are not (R, 2) and positive.
    """
    if shares.ndim != 2 or shares.shape[1] != 2 or not (shares > 0).all():
        raise ValueError(f"shares must be positive and (R, 2), not {tuple(shares.shape)}")
    power, gamma, tau, decay = (torch.as_tensor(v, dtype=torch.float32).expand(len(shares)) for v in (power, gamma, tau, decay))
    # w_y = (1 / (2 pi_y))^power; while learning, s + tau log(pi_1 / pi_0)
    return Loss((2 * shares) ** -power[:, None], gamma, tau * torch.log(shares[:, 1] / shares[:, 0]), decay)


def losses(score: Tensor, y: Tensor, how: Loss) -> Tensor:
    """w_y (1 - p_y)^gamma (-log p_y) (R, b), with p_y the probability of the label after the shift; score and y (R, b)."""
    margin = (2 * y - 1) * (score + how.shift[:, None])
    wrong = torch.sigmoid(-margin).clamp_min(1e-7)  # 1 - p_y
    return how.weight.gather(1, y) * wrong ** how.gamma[:, None] * functional.softplus(-margin)


def train(student: Student, pool: Tensor, from_: Strata, how: Loss, u: Tensor, of: Tensor, rate: float) -> Student:
    """Students after one step of Adam for each of u's batches.

    pool (N, d). u (steps, S, b, 2) uniform numbers; run r takes those of seed of[r], so that arms of a seed see alike batches.
    Raises ValueError when the runs do not fit.
    """
    if not len(student.w1) == len(from_.size) == len(how.gamma) == len(of):
        raise ValueError(
            f"student, strata, loss and of must have one number of runs, not {len(student.w1)}, {len(from_.size)}, ..."
        )
    student = Student(*(p.clone().requires_grad_() for p in student))
    adam = torch.optim.Adam(student, rate, fused=True)
    for step in u:
        rows, y = draw(from_, step[of])
        adam.zero_grad()
        losses(scores(student, pool[rows]), y, how).mean(1).sum().backward()
        for p in student:  # the gradient of decay |p|^2 / 2
            p.grad += how.decay[:, None, None] * p.detach()
        adam.step()
    return Student(*(p.detach() for p in student))


def refit(student: Student, pool: Tensor, from_: Strata, ridge: float, steps: int = 12) -> Student:
    """Students with a new last layer: logistic regression on their features, strata weighted by their shares, by Newton's method.

    The ridge penalty spares the intercept. Raises ValueError for ridge <= 0.
    """
    if ridge <= 0:
        raise ValueError(f"ridge must be positive, not {ridge}")
    layers = []
    for r in range(len(from_.size)):
        used = [k for k in range(from_.size.shape[1]) if from_.share[r, k] > 0]
        rows = torch.cat([from_.rows[r, k, : from_.size[r, k]] for k in used])
        sign = torch.cat([torch.full((int(from_.size[r, k]),), 2.0 * (k % 2) - 1) for k in used]).double()
        w = torch.cat([(from_.share[r, k] / from_.size[r, k]).expand(int(from_.size[r, k])) for k in used]).double()
        hidden = features(take(student, torch.tensor([r])), pool[rows][None])[0].double()  # (n, hidden)
        phi = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=torch.float64)], 1)
        penalty = torch.full((phi.shape[1],), ridge, dtype=torch.float64)
        penalty[-1] = 1e-9
        theta = torch.zeros(phi.shape[1], dtype=torch.float64)
        for _ in range(steps):
            p = torch.sigmoid(-sign * (phi @ theta))  # 1 - p_y
            slope = penalty * theta - phi.T @ (w * sign * p)
            curve = phi.T @ (phi * (w * p * (1 - p))[:, None]) + torch.diag(penalty)
            theta = theta - torch.linalg.solve(curve, slope)
        layers.append(theta.float())
    theta = torch.stack(layers)[..., None]  # (R, hidden + 1, 1)
    return student._replace(w3=theta[:, :-1], b3=theta[:, -1:])


# ---------------------------------------------------------------- counterfactuals


class Generator(NamedTuple):
    """Principal components: x = mean + z C, with z (k,) of unit variance, C (k, d)."""

    mean: Tensor
    components: Tensor


def generator(x: Tensor, k: int) -> Generator:
    """The first k principal components of pictures x (n, d). Raises ValueError unless 1 <= k <= min(n, d)."""
    if x.ndim != 2 or not 1 <= k <= min(x.shape):
        raise ValueError(f"k must be 1..{min(x.shape)} components of pictures (n, d), not {k}")
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - mean).T.double()))
    root = values[-k:].flip(0).clamp_min(1e-12).sqrt()
    return Generator(mean, (vectors[:, -k:].flip(1).T * root[:, None]).float())


def encode(by: Generator, x: Tensor) -> Tensor:
    """x (..., d) -> z (..., k)."""
    return (x - by.mean) @ by.components.T / by.components.square().sum(1)


def moved(by: Generator, x: Tensor, shift: Tensor) -> Tensor:
    """x (..., d) with its code shifted by (..., k), kept in 0..1; what the components do not explain stays as it is."""
    return (x + shift @ by.components).clamp(0, 1)


def search(
    student: Student, by: Generator, x: Tensor, target: Tensor, noise: Tensor,
    *, goal: float = 0.9, steps: int = 40, rate: float = 0.2, pull: float = 0.02, density: float = 0.01,
) -> Tensor:  # fmt: skip
    """Shifts (R, n, k) of the codes that take x (R, n, d) to where the student says `target` (R, n) with confidence `goal`.

    Adam on -log p_target + pull |shift|_1 + density |z + shift|^2 / 2 from shift = noise (R, n, k); a picture's shift is the first
    that reaches the goal, or the last. Raises ValueError for a goal outside (0.5, 1).
    """
    if not 0.5 < goal < 1:
        raise ValueError(f"goal must be in (0.5, 1), not {goal}")
    code, sign = encode(by, x), 2.0 * target - 1
    shift = noise.clone().requires_grad_()
    adam = torch.optim.Adam([shift], rate, fused=True)
    kept, done = noise, torch.zeros(target.shape, dtype=torch.bool)
    for step in range(steps + 1):
        margin = sign * scores(student, moved(by, x, shift))
        kept = torch.where(done[..., None], kept, shift.detach())
        done = done | (torch.sigmoid(margin.detach()) >= goal)
        if step == steps or done.all():
            return kept
        far = pull * shift.abs().sum(-1) + density * (code + shift).square().sum(-1) / 2
        shift.grad = torch.autograd.grad((functional.softplus(-margin) + far).sum(), shift)[0]
        adam.step()


def oracle_answers(oracle: Student, x: Tensor, target: Tensor) -> Tensor:
    """What an oracle, one student trained without the confounder, says of pictures x (R, n, d) that should show `target` (R, n).

    TRUE: the target with more than 0.8; FALSE: still the other class with more than 0.6; OOD: anything between. (R, n) int64.
    """
    p = torch.sigmoid((2.0 * target - 1) * scores(oracle, x.reshape(1, -1, x.shape[-1])).reshape(target.shape))
    return torch.where(p > 0.8, TRUE, torch.where(p < 0.4, FALSE, OOD))


class Found(NamedTuple):
    """Counterfactuals of R students, n each, the first half from class 0 to 1 and the second from 1 to 0."""

    x: Tensor  # (R, n, d) the pictures that they began as
    shift: Tensor  # (R, n, k)
    changed: Tensor  # (R, n, d)
    target: Tensor  # (R, n)
    flipped: Tensor  # (R, n) bool: from a rightly classified picture, and the goal reached
    answer: Tensor  # (R, n) the teacher's


Teacher = Callable[[Tensor, Tensor], Tensor]


def find(
    student: Student, by: Generator, pool: Tensor, from_: Strata, teacher: Teacher, rngs: Sequence[np.random.Generator], n: int,
    *, goal: float = 0.9, **how,
) -> Found:  # fmt: skip
    """n counterfactuals of each student, from rightly classified pictures of its first two strata, as many from either class.

    Where fewer than half of those from a class reach the goal, it is lowered for them in steps of 0.1 down to 0.51, as in the
    released code of CFKD.
    """
    per, rows, right = n // 2, [], []
    for r, rng in enumerate(rngs):
        for y in (0, 1):
            of_class = from_.rows[r, y, : from_.size[r, y]]
            said = scores(take(student, torch.tensor([r])), pool[of_class][None])[0] > 0
            good = of_class[said == bool(y)]
            right += [len(good) > 0] * per
            good = good if len(good) else of_class
            rows.append(good[torch.as_tensor(rng.integers(len(good), size=per))])
    x = pool[torch.cat(rows).reshape(len(rngs), n)]
    target = torch.tensor([1, 0]).repeat_interleave(per).expand(len(rngs), n)
    noise = torch.stack([torch.as_tensor(rng.normal(0, 0.1, (n, len(by.components))), dtype=torch.float32) for rng in rngs])
    shift = search(student, by, x, target, noise, goal=goal, **how)
    changed = moved(by, x, shift)
    confidence = torch.sigmoid((2.0 * target - 1) * scores(student, changed))
    confidence = confidence.reshape(len(rngs), 2, per)
    goals = torch.full((len(rngs), 2, 1), goal)
    for lower in (0.8, 0.7, 0.6, 0.51):
        few = (confidence >= goals).float().mean(2, keepdim=True) < 0.5
        goals = torch.where(few, goals.clamp_max(lower), goals)
    flipped = (confidence >= goals).reshape(len(rngs), n) & torch.tensor(right).reshape(len(rngs), n)
    return Found(x, shift, changed, target, flipped, teacher(changed, target))


def feedback_accuracy(found: Found) -> Tensor:
    """FA = true / (true + false) of each run (R,), in 0..1; 0 where the teacher said neither."""
    true, false = (((found.answer == said) & found.flipped).sum(1) for said in (TRUE, FALSE))
    return true / (true + false).clamp_min(1)


class Lesson(NamedTuple):
    """What a student learns from next: a pool, its strata (two of the data, two of counterfactuals), and how these came about."""

    pool: Tensor  # (N + new, d)
    strata: Strata
    x: Tensor  # (new, d) what the new pictures began as
    length: Tensor  # (new,) of their shifts


def lesson(pool: Tensor, from_: Strata, founds: Sequence[Found], mix: Tensor) -> Lesson:
    """The data and, with a share mix (R,), the false counterfactuals of every round, with the class they began as.

    Either class is drawn equally often from them, mix / 2; where a class has none its part is left to the data.
    """
    lists, new, at = [], [], len(pool)
    for r in range(len(mix)):
        lists.append([from_.rows[r, y, : from_.size[r, y]] for y in (0, 1)])
        for y in (0, 1):
            wrong = [(f, (f.flipped & (f.answer == FALSE) & (f.target == 1 - y))[r]) for f in founds]
            new.append([torch.cat([getattr(f, part)[r][w] for f, w in wrong]) for part in ("changed", "x", "shift")])
            lists[r].append(torch.arange(at, at + len(new[-1][0])))
            at += len(new[-1][0])
    changed, begun, shift = (torch.cat(parts) for parts in zip(*new, strict=True))
    some = torch.tensor([[len(rows) > 0 for rows in run[2:]] for run in lists])  # (R, 2)
    added = some * mix[:, None] / 2
    share = torch.cat([(1 - added.sum(1, keepdim=True)) * from_.share, added], 1)
    return Lesson(torch.cat([pool, changed]), strata(lists, share), begun, shift.norm(dim=1))


def augmented(taught: Lesson, by: Generator, rng: np.random.Generator) -> Lesson:
    """The same lesson with pictures moved as far in directions drawn at random, in place of the counterfactuals."""
    shift = torch.as_tensor(rng.normal(size=(len(taught.x), len(by.components))), dtype=torch.float32)
    shift = shift / shift.norm(dim=1, keepdim=True) * taught.length[:, None]
    old = taught.pool[: len(taught.pool) - len(taught.x)]
    return taught._replace(pool=torch.cat([old, moved(by, taught.x, shift)]))


def cfkd(
    student: Student, pool: Tensor, from_: Strata, look: Callable[[Student], Found],
    retrain: Callable[[Student, Lesson], Student], rounds: int,
) -> tuple[Student, Tensor, list[Found], Lesson]:  # fmt: skip
    """Each run's student of best feedback accuracy FA, that FA, what was found in every round, and the last lesson.

    look: finds and judges counterfactuals of a student. retrain: gives the next student from the current one and a lesson.
    The share of counterfactuals in a lesson is 1 - FA.
    """
    founds = [look(student)]
    students, told = [student], [feedback_accuracy(founds[0])]
    for _ in range(rounds):
        taught = lesson(pool, from_, founds, 1 - told[-1])
        students.append(retrain(students[-1], taught))
        founds.append(look(students[-1]))
        told.append(feedback_accuracy(founds[-1]))
    best = torch.stack(told).argmax(0)  # (R,): of equal ones the earliest
    runs = torch.arange(len(best))
    chosen = Student(*(torch.stack(parts)[best, runs] for parts in zip(*students, strict=True)))
    return chosen, torch.stack(told)[best, runs], founds, taught


# ---------------------------------------------------------------- measures


def group_accuracy(score: Tensor, y: Tensor, threshold: Tensor) -> Tensor:
    """Accuracy (R, 2, 2) by class and c; score (R, 2, n) of n pictures with c = 0 and c = 1, y (n,), threshold (R,).

    Raises ValueError when a class is missing.
    """
    if not 0 < y.sum() < len(y):
        raise ValueError("y must hold both classes")
    right = ((score > threshold[:, None, None]) == (y == 1)).float()  # (R, 2, n)
    return torch.stack([right[..., y == k].mean(-1) for k in (0, 1)], 1)


def reliance(accuracy: Tensor) -> Tensor:
    """How much accuracy the rare class loses when its c is swapped from the usual to the other (R,); accuracy (R, 2, 2)."""
    return accuracy[:, 1, 1] - accuracy[:, 1, 0]


def log_odds_reliance(score: Tensor, y: Tensor) -> Tensor:
    """Mean log odds that the rare class loses when its c is swapped, over those that lie between the classes' means (R,).

    score (R, 2, n) of n pictures with c = 0 and c = 1, y (n,). No threshold and no scale of the scores matters; 0 where c is not
    used, 1 where it moves a picture as far as a change of class does on average. Raises ValueError when a class is missing.
    """
    if not 0 < y.sum() < len(y):
        raise ValueError("y must hold both classes")
    frequent, rare = (score[..., y == k].mean(-1) for k in (0, 1))  # (R, 2)
    return (rare[:, 1] - rare[:, 0]) / (rare - frequent).mean(1)
