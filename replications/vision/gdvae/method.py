"""The Gaussian Discriminant Variational Autoencoder, a classifier that explains itself (Haselhoff et al. 2024, arXiv 2409.12952).

Shapes: n images (n, channels, side, side) in [0, 1], K classes, codes z of M numbers. Scores (n, K) are log-probabilities of the
classes up to a number that is the same for all classes of a row.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 24)
PARTS = ("reconstruction", "kl", "hyper_kl", "cross_entropy", "consistency")  # of the loss
MOST = 4.59512  # logit(.99): log-odds that are asked for in training, at most
TRIPS = 11  # round trips of an image in the paper's loss: its reconstruction, and ten counterfactuals

# ---------------------------------------------------------------- the network


class GdVAE(nn.Module):
    """Encoder q(z | x, y), decoder p(x | z, y) and class priors p(z | y) = N(mu_y, diag sigma^2) with one sigma for all classes.

    log_py: (K,) log-frequencies of the classes. blind: the decoder sees the same label whatever it is given. Raises ValueError when
    `side` cannot be halved twice or log_py are not the logarithms of a distribution.
    """

    def __init__(self, log_py: Tensor, rng: torch.Generator, *, latent: int, shape=(1, 28), blind: bool = False):
        super().__init__()
        if log_py.ndim != 1 or not torch.isclose(log_py.exp().sum(), torch.tensor(1.0), atol=1e-4):
            raise ValueError("log_py must be logarithms (K,) of frequencies that sum to 1")
        channels, side = shape
        if side % 4:
            raise ValueError(f"shape: a side of {side} pixels cannot be halved twice")
        classes, (few, many), small = len(log_py), WIDTHS, side // 4
        self.latent, self.blind = latent, blind
        self.register_buffer("log_py", log_py)
        self.maps = nn.Parameter(0.1 * torch.randn(classes, 1, side, side, generator=rng))  # a label as one more channel
        self.mu = nn.Parameter(0.3 * torch.randn(classes, latent, generator=rng))
        self.log_variance = nn.Parameter(torch.zeros(latent))
        self.see = nn.Conv2d(channels, few, 4, 2, 1)
        self.hear = nn.Conv2d(1, few, 4, 2, 1, bias=False)
        self.encoder = nn.Sequential(
            nn.ReLU(), nn.Conv2d(few, many, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(many * small**2, 2 * latent)
        )
        self.label = nn.Linear(classes, 1)
        self.decoder = nn.Sequential(
            nn.Linear(latent + 1, many * small**2), nn.ReLU(), nn.Unflatten(1, (many, small, small)),
            nn.ConvTranspose2d(many, few, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(few, channels, 4, 2, 1), nn.ReLU(),
        )  # fmt: skip
        drawn(self, rng).to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances (at most 5) of q(z | x, y) for every y: each (n, K, M).

        The first layer adds what it makes of the image and of the label, so it sees the image once.
        """
        h = self.see(x)[:, None] + self.hear(self.maps)  # (n, K, few, side / 2, side / 2)
        h = h.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        mean, log_variance = self.encoder(h).unflatten(0, (len(x), -1)).split(self.latent, dim=2)
        return mean, log_variance.clamp_max(5)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Images, not below 0 but perhaps above 1, of codes (n, M) and labels (n, K), soft or hard."""
        y = torch.full_like(y, 1 / y.shape[1]) if self.blind else y
        return self.decoder(torch.cat([z, self.label(y)], 1))

    def rule(self) -> "Rule":
        """The class priors as a linear classifier of z."""
        return rule(self.mu, self.log_variance.clamp(-10, 5).exp(), self.log_py)


def drawn(net: nn.Module, rng: torch.Generator) -> nn.Module:
    """The net with every layer's weights drawn from `rng` as torch draws them."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            bound = layer.weight[0].numel() ** -0.5
            for weight in layer.parameters():
                nn.init.uniform_(weight, -bound, bound, generator=rng)
    return net


def black_box(classes: int, rng: torch.Generator, shape=(1, 28)) -> nn.Sequential:
    """The encoder's layers with a softmax head instead of a code: images -> scores (n, classes)."""
    (channels, side), (few, many) = shape, WIDTHS
    layers = nn.Conv2d(channels, few, 4, 2, 1), nn.ReLU(), nn.Conv2d(few, many, 4, 2, 1), nn.ReLU(), nn.Flatten()
    return drawn(nn.Sequential(*layers, nn.Linear(many * (side // 4) ** 2, classes)), rng)


# ---------------------------------------------------------------- the linear rule and its counterfactuals


class Rule(NamedTuple):
    """Scores w_i . z + b_i of classes i: w, mu (K, M), b (K,), and the variance (M,) that the classes share."""

    w: Tensor
    b: Tensor
    mu: Tensor
    variance: Tensor

    def scores(self, z: Tensor) -> Tensor:
        """log p(z | y) + log p(y) (..., K) of codes (..., M), less the part that is the same for every y."""
        return z @ self.w.T + self.b

    def towards(self, c: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """w (n, M) and b (n,) of the log-odds of c against k, classes (n,)."""
        return self.w[c] - self.w[k], self.b[c] - self.b[k]


def rule(mu: Tensor, variance: Tensor, log_py: Tensor) -> Rule:
    """w_i = Sigma^-1 mu_i and b_i = -mu_i' Sigma^-1 mu_i / 2 + log p(y = i). Raises ValueError for variances not above 0."""
    if not (variance > 0).all():
        raise ValueError("variance must be positive")
    w = mu / variance
    return Rule(w, log_py - (mu * w).sum(1) / 2, mu, variance)


def log_odds(rule: Rule, z: Tensor, c: Tensor, k: Tensor) -> Tensor:
    """f(z) = w . z + b (n,): log-odds of class c against k, classes (n,), for codes z (n, M)."""
    w, b = rule.towards(c, k)
    return (w * z).sum(1) + b


def along(rule: Rule, z: Tensor, c: Tensor, k: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """The code (n, M) with log-odds delta (n,) on the line through z along direction (n, M)."""
    w, _ = rule.towards(c, k)
    return z + ((delta - log_odds(rule, z, c, k)) / (w * direction).sum(1))[:, None] * direction


def local_l2(rule: Rule, z: Tensor, c: Tensor, k: Tensor, delta: Tensor) -> Tensor:
    """The nearest code (n, M) with log-odds delta (n,): z - (f(z) - delta) w / |w|^2."""
    w, _ = rule.towards(c, k)
    return along(rule, z, c, k, delta, w)


def local_m(rule: Rule, z: Tensor, c: Tensor, k: Tensor, delta: Tensor) -> Tensor:
    """The nearest code (n, M) in Mahalanobis' distance with log-odds delta (n,): z - (f(z) - delta) Sigma w / (w' Sigma w).

    The official code starts from z + mu_k - mu_c, which is on the same line: Sigma w = mu_c - mu_k.
    """
    return along(rule, z, c, k, delta, rule.mu[c] - rule.mu[k])


def global_path(rule: Rule, z: Tensor, c: Tensor, k: Tensor, delta: Tensor) -> Tensor:
    """The code (n, M) with log-odds delta (n,) on the line from z to the prototype mu_k.

    z + kappa (mu_k - z), kappa = (f(z) - delta) / (w . (z - mu_k)).
    """
    return along(rule, z, c, k, delta, rule.mu[k] - z)


def soft_label(c: Tensor, k: Tensor, p: Tensor, classes: int) -> Tensor:
    """What the decoder is told (n, classes): p (n,) at class c, 1 - p at k."""
    return p[:, None] * functional.one_hot(c, classes) + (1 - p)[:, None] * functional.one_hot(k, classes)


def rival(scores: Tensor, c: Tensor) -> Tensor:
    """The class k (n,) to explain c (n,) against: the least likely of the others, as in the official code."""
    return scores.scatter(1, c[:, None], torch.inf).argmin(1)


# ---------------------------------------------------------------- Algorithm 1: a class without being told the label


def infer(
    mean: Tensor, log_variance: Tensor, rule: Rule, log_py: Tensor, rng: torch.Generator, *, rounds: int, samples: int
) -> Tensor:
    """Scores (n, K) of q(y | x) from the encodings (n, K, M) under every label (Algorithm 1).

    log q starts at log p(y). In each of `rounds`: `samples` labels y ~ q(y | x), codes z ~ q(z | x, y), and then
    log q(y | x) <- mean over samples of log p(z | y) + log p(y). Raises ValueError for no samples or less than 0 rounds.
    """
    if rounds < 0 or samples < 1:
        raise ValueError(f"rounds must be at least 0 and samples at least 1, not {rounds} and {samples}")
    scores = log_py.expand(len(mean), -1)
    for _ in range(rounds):
        y = hard_labels(scores.expand(samples, -1, -1), rng)  # (samples, n, K)
        scores = rule.scores(sample(mean, log_variance, y, rng)).mean(0)
    return scores


def hard_labels(scores: Tensor, rng: torch.Generator) -> Tensor:
    """One-hot labels drawn from softmax(scores) (..., K), with the gradient of the soft ones (Gumbel-softmax, temperature 1)."""
    noise = -torch.empty_like(scores).exponential_(generator=rng).log()
    soft = (scores + noise).softmax(-1)
    return functional.one_hot(soft.argmax(-1), scores.shape[-1]) + (soft - soft.detach())


def sample(mean: Tensor, log_variance: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Codes z (..., n, M) ~ q(z | x, y), y (..., n, K) one-hot, from the encodings (n, K, M) under every label."""
    centre, spread = of_label(mean, y), of_label((log_variance / 2).exp(), y)
    return centre + spread * torch.randn(centre.shape, generator=rng)


def of_label(encodings: Tensor, y: Tensor) -> Tensor:
    """The encodings (n, K, M) under the labels y (..., n, K): (..., n, M)."""
    return torch.einsum("...nk,nkm->...nm", y.to(encodings.dtype), encodings)


@torch.no_grad()
def classify(net: GdVAE, x: Tensor, rng: torch.Generator, *, rounds: int, samples: int) -> tuple[Tensor, Tensor]:
    """Scores (n, K) of images and their codes (n, M): the encoder's mean under the likeliest label."""
    mean, log_variance = net.encode(x)
    scores = infer(mean, log_variance, net.rule(), net.log_py, rng, rounds=rounds, samples=samples)
    return scores, of_label(mean, functional.one_hot(scores.argmax(1), scores.shape[1]))


@torch.no_grad()
def picture(net: GdVAE, z: Tensor, c: Tensor, k: Tensor, p: Tensor) -> Tensor:
    """What a viewer sees of codes (n, M) at which class c is to have probability p (n,) and k the rest: decoded, within [0, 1]."""
    return net.decode(z, soft_label(c, k, p, len(net.log_py))).clamp(0, 1)


# ---------------------------------------------------------------- training


def kl(mean: Tensor, log_variance: Tensor, mean_to: Tensor, log_variance_to: Tensor) -> Tensor:
    """KL divergence of two diagonal Gaussians, mean over dimensions: (..., M) -> (...), nats."""
    gap = log_variance_to - log_variance
    return ((gap.neg().exp() + (mean - mean_to).square() / log_variance_to.exp() - 1 + gap) / 2).mean(-1)


def round_trip(
    rule: Rule, mean: Tensor, z: Tensor, y: Tensor, labels: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One of the loss's eleven round trips for each image: the code to decode, the code to come back to (n, M), the label (n, K).

    With probability 1/11 it is the reconstruction: from the drawn code z (n, M) back to the mean (n, M), label y. Else it is a
    counterfactual of the true class against its rival at log-odds uniform within +-4.6, the log-odds of the mean and those of the
    prototype; by the nearest code or towards the prototype, whichever a coin says.
    """
    n, classes = y.shape
    k = rival(rule.scores(mean), labels)
    ends = torch.stack([log_odds(rule, mean, labels, k).clamp_max(MOST), log_odds(rule, rule.mu[k], labels, k).clamp_min(-MOST)])
    low, high = ends.amin(0), ends.amax(0)
    u, coin, trip = torch.rand(3, n, generator=rng)
    delta = low + (high - low) * u
    ways = local_l2(rule, mean, labels, k, delta), global_path(rule, mean, labels, k, delta)
    moved = torch.where(coin[:, None] < 0.5, *ways)
    plain = (trip < 1 / TRIPS)[:, None]
    return (
        torch.where(plain, z, moved),
        torch.where(plain, mean, moved),
        torch.where(plain, y, soft_label(labels, k, delta.sigmoid(), classes)),
    )


def loss_parts(
    net: GdVAE, x: Tensor, labels: Tensor, rng: torch.Generator, *, gamma: float, rounds: int, samples: int, scrambled: bool
) -> Tensor:
    """The five terms of the loss (5,) in the order of PARTS, weighted, means over the images; alpha = beta = 1.

    2 rec + M/D KL(q(z|x,y) || p(z|y)) + M/D KL(p(z|y) || N(0, I)) + .1 CE + gamma M/D KL(q(z|decoded) || N(z, Sigma_x)), D pixels;
    rec is the negative log-density of a Gaussian of standard deviation .6, but for its constant, mean over pixels. The KLs to
    the priors use the true label, the others Algorithm 1's. scrambled: a round trip is to come back to another image's code.
    """
    weight = net.latent / x[0].numel()
    settings = {"rounds": rounds, "samples": samples}
    linear = net.rule()
    mean, log_variance = net.encode(x)
    y = hard_labels(infer(mean, log_variance, linear, net.log_py, rng, **settings), rng)
    z = sample(mean, log_variance, y, rng)
    truth = functional.one_hot(labels, y.shape[1])
    prior = linear.mu[labels], linear.variance.log().expand(len(x), -1)
    parts = [
        2 * (net.decode(z, y) - x).square().mean() / (2 * 0.6**2),
        weight * kl(of_label(mean, truth), of_label(log_variance, truth), *prior).mean(),
        weight * kl(*prior, torch.zeros(()), torch.zeros(())).mean(),
        0.1 * functional.cross_entropy(linear.scores(z), labels),
    ]
    if not gamma:
        return torch.stack([*parts, torch.zeros(())])
    centre, spread = of_label(mean, y), of_label(log_variance, y)
    out, back, told = round_trip(linear, centre, z, y, labels, rng)
    again, log_again = net.encode(net.decode(out, told))
    said = hard_labels(infer(again, log_again, linear, net.log_py, rng, **settings), rng)
    if scrambled:
        back = back[torch.randperm(len(x), generator=rng)]
    return torch.stack([*parts, gamma * weight * kl(of_label(again, said), of_label(log_again, said), back, spread).mean()])


def train(
    net: GdVAE, images: Tensor, labels: Tensor, rng: torch.Generator, *, stops: Sequence[int], batch: int, lr: float,
    only: int | None = None, **loss,
) -> tuple[list[GdVAE], Tensor]:  # fmt: skip
    """The net after each of the rising numbers of steps `stops`, and the loss's parts (steps, 5); Adam, batches at random.

    images: (n, channels, side, side) in [0, 1]; labels: (n,) 0..K-1; only: end after so many steps, on the way; loss: keywords of
    `loss_parts`. Raises ValueError when shapes do not fit, for pixels out of range, or a batch larger than the set.
    """
    _check(images, labels, batch)
    optimiser = torch.optim.Adam(net.parameters(), lr, fused=True)
    kept, parts = [], []
    for step, rows in enumerate(_batches(len(images), batch, stops[-1], rng)[:only], 1):
        terms = loss_parts(net, images[rows], labels[rows], rng, **loss)
        optimiser.zero_grad()
        terms.sum().backward()
        optimiser.step()
        parts.append(terms.detach())
        if step in stops:
            kept.append(deepcopy(net).eval())
    return kept, torch.stack(parts)


def fit(net: nn.Module, images: Tensor, labels: Tensor, rng: torch.Generator, *, steps: int, batch: int, lr: float) -> nn.Module:
    """A net of images -> scores (n, K), trained by cross-entropy: Adam, batches at random. Raises ValueError as `train` does."""
    _check(images, labels, batch)
    optimiser = torch.optim.Adam(net.parameters(), lr, fused=True)
    for rows in _batches(len(images), batch, steps, rng):
        optimiser.zero_grad()
        functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimiser.step()
    return net.eval()


def _batches(n: int, batch: int, steps: int, rng: torch.Generator) -> Sequence[Tensor]:
    """Rows of each step: every epoch in a fresh random order, what is left after full batches dropped."""
    epochs = -(-steps // (n // batch))
    return [rows for _ in range(epochs) for rows in torch.randperm(n, generator=rng)[: n // batch * batch].split(batch)][:steps]


def _check(images: Tensor, labels: Tensor, batch: int) -> None:
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images must be (n, channels, side, side) and labels (n,), not {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not (images.min() >= 0 and images.max() <= 1):  # NaN is neither
        raise ValueError("images must lie in [0, 1]")
    if not 1 <= batch <= len(images):
        raise ValueError(f"batch must be 1..{len(images)}, not {batch}")
