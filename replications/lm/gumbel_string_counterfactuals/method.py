"""Counterfactual strings of a language model by the Gumbel-max trick (Ravfogel et al. 2024, arXiv 2411.07180).

B: sentences of a batch, n: words (tokens) of a continuation, V: words of the vocabulary, d: width of the model's states,
m: width of its MLPs. Log-probabilities and noise are float64, the model's states float32. Sentences are lists of token ids:
text is never tokenised again.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

Pick = Callable[[int, Tensor], Tensor]  # (position i, log-probabilities [B, V]) -> the words [B]


# --- the structural equation of sampling, and its noise ---------------------------------------------------------------


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float64: mean 0.5772, variance 1.6449."""
    # Gumbel(0, 1) = -log(Exponential(1))
    return -torch.empty(tuple(shape), dtype=torch.float64).exponential_(generator=generator).log()


def gumbel_argmax(noise: Tensor) -> Pick:
    """Choose words with the noise U [B, n, V]: zero noise decodes greedily."""

    def pick(i: int, log_p: Tensor) -> Tensor:
        # W_i = argmax_v  phi_i[v] + U_i[v]
        return (log_p + noise[:, i]).argmax(-1)

    return pick


def hindsight_noise(log_p: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """A sample from the law of the noise U [n, V], given that it made the model choose `words`.

    log_p [n, V]: log p(. | prompt, w_<i), up to a constant. words [n]: the observed token ids.
    Raises ValueError on other shapes or NaN.
    """
    _check_words("log_p", log_p, words)
    chosen = words[:, None]
    # the maximum does not depend on which word attains it:  M ~ Gumbel(logsumexp phi)
    top = gumbel((len(words), 1), generator) + log_p.logsumexp(-1, keepdim=True)
    # all others are Gumbels truncated to stay below M:  g~ = -log(exp(-g) + exp(-M)) = M - softplus(M - g)
    below = top - softplus(top - (log_p + gumbel(log_p.shape, generator)), threshold=50)
    return below.scatter(-1, chosen, top) - log_p


def survival(log_p: Tensor, log_q: Tensor, words: Tensor) -> Tensor:
    """P(W'_i = w_i | W_i = w_i) [n], exactly: how probably each word outlives the change from p to q while the prefix is the same.

    log_p, log_q [n, V]: the next-word laws of the original and the changed model on the observed prefix. Our addition to the paper.
    """
    _check_words("log_p", log_p, words)
    _check_words("log_q", log_q, words)
    chosen = words[:, None]
    # 1 / (p_k sum_v max(p_v / p_k, q_v / q_k)), in logarithms
    ratios = torch.maximum(log_p - log_p.gather(-1, chosen), log_q - log_q.gather(-1, chosen))
    return (-log_p.gather(-1, chosen).squeeze(-1) - ratios.logsumexp(-1)).exp()


def expected_prefix(survivals: Tensor) -> float:
    """The expected length of the common prefix, in words, from the survival probabilities [n]."""
    # E L = sum_m P(L >= m) = sum_m prod_{i <= m} s_i
    return float(survivals.cumprod(0).sum())


def inverse_cdf_noise(log_p: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """The other causal model with the same laws: a uniform u [n] given that it made inverse-CDF sampling choose `words`."""
    _check_words("log_p", log_p, words)
    high = log_p.exp().cumsum(-1)
    p = log_p.gather(-1, words[:, None]).exp().squeeze(-1)
    # W = k  <=>  F(k - 1) < u <= F(k), words in the order of their ids
    return high.gather(-1, words[:, None]).squeeze(-1) - p * torch.rand(len(words), generator=generator, dtype=torch.float64)


def inverse_cdf(uniforms: Tensor) -> Pick:
    """Choose words by inverting the cumulative distribution at the uniforms [B, n]."""

    def pick(i: int, log_p: Tensor) -> Tensor:
        # W_i = min {v : F_i(v) >= u_i}
        cumulative = log_p.exp().cumsum(-1)
        return torch.searchsorted(cumulative, uniforms[:, i : i + 1].contiguous()).squeeze(-1).clamp(max=log_p.shape[-1] - 1)

    return pick


# --- running the model ------------------------------------------------------------------------------------------------


def _left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Token ids of unequal lengths as one batch that ends together; positions count from the first real token."""
    if not rows or not all(len(row) for row in rows):
        raise ValueError("prompts: empty batch, or an empty row in it")
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@torch.no_grad()
def decode(model, prompts: Sequence[Sequence[int]], pick: Pick, n: int, stop: int) -> list[list[int]]:
    """Up to `n` words per prompt, each chosen by `pick` on the row's own prefix; a row ends with the word `stop` and keeps it."""
    batch = _left_padded(prompts)
    mask, position = batch["attention_mask"], batch["position_ids"][:, -1:]
    out = model(**batch, use_cache=True, logits_to_keep=1)
    words = []
    for i in range(n):
        # temperature 1, all of the vocabulary: the law that the hindsight assumes
        words.append(pick(i, out.logits[:, -1].double().log_softmax(-1)))  # [B]
        if i + 1 < n:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            position = position + 1
            step = {"input_ids": words[-1][:, None], "attention_mask": mask, "position_ids": position}
            out = model(**step, cache=out.cache, use_cache=True)
    rows = torch.stack(words, 1).tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


@torch.no_grad()
def log_probs(model, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Tensor]:
    """log p(. | prompt, w_<i) for each continuation [n, V], float64, in one teacher-forced pass."""
    rows = [[*x, *w] for x, w in zip(prompts, continuations, strict=True)]
    n = max(map(len, continuations))
    logits = model(**_left_padded(rows), use_cache=False, logits_to_keep=n + 1).logits  # [B, n + 1, V]; rows end together
    return [row[n - len(w) : n].double().log_softmax(-1) for row, w in zip(logits, continuations, strict=True)]


# --- interventions ----------------------------------------------------------------------------------------------------


def blocks(model) -> torch.nn.ModuleList:
    """The model's layers, as Llama or as GPT-2 names them."""
    return model.model.layers if hasattr(model, "model") else model.transformer.h


def vocabulary(model) -> int:
    """V, the number of words that the model gives a probability to."""
    return model.get_output_embeddings().weight.shape[0]


def mlp_output(block) -> torch.nn.Module:
    """The last linear map of a layer's MLP: the map that a rank-one edit changes."""
    return block.mlp.down_proj if hasattr(block.mlp, "down_proj") else block.mlp.c_proj


@contextmanager
def steered(model, layer: int, change: Callable[[Tensor], Tensor]):
    """The model with its states h [B, T, d] after layer `layer` replaced by change(h), but for each row's first position.

    The first position's state is a sink with a norm many times that of others; a map fitted on ordinary states destroys it.
    """

    def hook(_block, _args, inputs, output):
        states = output if isinstance(output, Tensor) else output[0]
        later = inputs["position_ids"][..., None] > 0
        states = torch.where(later, change(states), states)
        return states if isinstance(output, Tensor) else (states, *output[1:])

    handle = blocks(model)[layer].register_forward_hook(hook, with_kwargs=True)
    try:
        yield model
    finally:
        handle.remove()


@contextmanager
def rank_one_edited(model, layer: int, u: Tensor, v: Tensor):
    """The model with W + u v^T in place of the last map W [d, m] of layer `layer`'s MLP; the old weights come back afterwards."""
    linear = mlp_output(blocks(model)[layer])
    change = torch.outer(u, v)  # [d, m]
    old = linear.weight.detach().clone()
    # GPT-2 keeps its linear maps transposed
    linear.weight.data += change if isinstance(linear, torch.nn.Linear) else change.T
    try:
        yield model
    finally:
        linear.weight.data.copy_(old)


def gaussian_transport(x0: np.ndarray, x1: np.ndarray, shrink: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means mu0, mu1 [d] and map A [d, d] of the optimal transport from states x0 [n0, d] to x1 [n1, d], both as Gaussians.

    `shrink` in [0, 1] mixes each covariance with its own diagonal, so that it can be inverted when n is not much larger than d.
    Raises ValueError for other values, for states that are not finite or differ in width, and for a singular covariance.
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink: need a share in [0, 1], got {shrink}")
    for name, x in (("x0", x0), ("x1", x1)):
        if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"{name}: need at least two rows of finite states, got shape {x.shape}")
    if x1.shape[1] != x0.shape[1]:
        raise ValueError(f"x1: need states as wide as those of x0, {x0.shape[1]}, got {x1.shape[1]}")
    s0, s1 = (_shrunk_covariance(np.asarray(x, np.float64), shrink) for x in (x0, x1))
    root, inverse = _matrix_power(s0, 0.5), _matrix_power(s0, -0.5)
    # A = S0^{-1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}
    return x0.mean(0), x1.mean(0), inverse @ _matrix_power(root @ s1 @ root, 0.5) @ inverse


def transport(mu0: Tensor, mu1: Tensor, a: Tensor, alpha: float = 1.0) -> Callable[[Tensor], Tensor]:
    """MiMiC steering with strength `alpha`: 0 changes nothing, 1 is the paper's; with A the identity it is the mean shift."""
    # h <- h + alpha (mu_1 + (h - mu_0) A - h)
    return lambda h: h + alpha * (mu1 + (h - mu0) @ a - h)


def rank_one_direction(key: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
    """v [m] such that W + (v* - W k) v^T maps the key k [m] to v* and disturbs keys of second moment C [m, m] least (ROME)."""
    # (C^{-1} k)^T / (k^T C^{-1} k)
    solved = np.linalg.solve(second_moment, key)
    return solved / (key @ solved)


def subject_keys(model, layer: int, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> Tensor:
    """The inputs [B, m] of the last map of layer `layer`'s MLP, each at its row's position (that of the subject's last word)."""
    kept = []
    handle = mlp_output(blocks(model)[layer]).register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            model(**_left_padded(rows), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    width = max(map(len, rows))
    return torch.stack([kept[0][b, width - len(row) + p] for b, (row, p) in enumerate(zip(rows, positions, strict=True))])


def value_change(
    model,
    layer: int,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[int],
    target: Sequence[int],
    steps: int = 25,
    rate: float = 0.5,
    kl: float = 0.0625,
    decay: float = 0.5,
) -> Tensor:
    """u = v* - W k [d]: what to add to the MLP's output at the subject so that the model goes on with `target` after every prompt.

    Adam on -log p(target) + kl KL(original, edited; the word after the subject) + decay |u|^2 / |W k|^2: the three terms of ROME,
    whose code has |u| where we have its square.
    """
    rows = [[*x, *target] for x in prompts]
    batch, width, t = _left_padded(rows), max(map(len, rows)), len(target)
    at = torch.tensor([width - len(row) + p for row, p in zip(rows, positions, strict=True)])
    each = torch.arange(len(rows))
    u = torch.zeros(model.config.hidden_size, requires_grad=True)
    plain = {}

    def hook(_module, _args, output):
        plain.setdefault("norm", output[each, at].detach().norm(dim=-1).mean())
        return output.index_put((each, at), u.expand(len(rows), -1), accumulate=True)

    handle = mlp_output(blocks(model)[layer]).register_forward_hook(hook)
    optimiser = torch.optim.Adam([u], rate)
    try:
        for _ in range(steps):
            log_p = model(**batch, use_cache=False).logits.log_softmax(-1)
            after_subject = log_p[each, at]
            original = plain.setdefault("log_p", after_subject.detach())  # u is 0 at the first step
            goal = log_p[:, -t - 1 : -1].gather(-1, batch["input_ids"][:, -t:, None]).sum((1, 2)).mean()
            drift = (original.exp() * (original - after_subject)).sum(-1).mean()
            # L(u) = -log p(target) + kl KL + decay |u|^2 / |W k|^2
            loss = -goal + kl * drift + decay * u.square().sum() / plain["norm"] ** 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    finally:
        handle.remove()
    return u.detach()


def _shrunk_covariance(x: np.ndarray, shrink: float) -> np.ndarray:
    full = np.cov(x, rowvar=False)
    return (1 - shrink) * full + shrink * np.diag(np.diag(full))


def _matrix_power(s: np.ndarray, power: float) -> np.ndarray:
    """Power of a symmetric positive definite matrix, by its eigenvectors: no complex roots."""
    values, vectors = np.linalg.eigh((s + s.T) / 2)
    if values[0] <= 0:
        raise ValueError("covariance is singular: fewer states than dimensions; use a larger `shrink`")
    return (vectors * values**power) @ vectors.T


# --- measures ---------------------------------------------------------------------------------------------------------


def common_prefix(a: Sequence, b: Sequence) -> int:
    """Number of leading elements that two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein: the fewest insertions, deletions and substitutions of characters that turn `a` into `b`."""
    other = np.array([ord(c) for c in b])
    row = np.arange(len(b) + 1)
    for i, c in enumerate(a, 1):
        new = np.minimum(row[1:] + 1, row[:-1] + (other != ord(c)))  # deletion, substitution
        new = np.concatenate([[i], new])
        row = np.minimum.accumulate(new - np.arange(len(new))) + np.arange(len(new))  # insertion
    return int(row[-1])


def _check_words(name: str, log_p: Tensor, words: Tensor) -> None:
    if log_p.ndim != 2 or words.shape != log_p.shape[:1] or len(words) == 0:
        shapes = f"{tuple(log_p.shape)} and {tuple(words.shape)}"
        raise ValueError(f"{name}: need log-probabilities [n, V] for words [n] with n >= 1, got {shapes}")
    if torch.isnan(log_p).any():
        raise ValueError(f"{name}: contains NaN")
    if words.min() < 0 or words.max() >= log_p.shape[1]:
        raise ValueError(f"words: ids outside the vocabulary of {log_p.shape[1]}")
