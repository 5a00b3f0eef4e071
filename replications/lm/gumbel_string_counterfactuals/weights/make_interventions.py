"""Fit the interventions of this notebook once: `python weights/make_interventions.py` in the notebook's folder.

Writes interventions.safetensors (fp16) and, for the packaged model, provenance.json beside this file, in some ten minutes of
one core; `--model openai-community/gpt2-xl --out weights/gpt2-xl.safetensors` fits another model. Reviews with an even number
are used here, for fitting and for choosing the layer of each edit; the notebook's openings come from those with an odd number.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[3]))

from replications.lm.gumbel_string_counterfactuals import method  # noqa: E402
from shared import lm, seeding  # noqa: E402
from shared.data import movie_reviews  # noqa: E402

SEED = 0
DEPTH = 0.5  # where to steer: the middle layer
SENTENCES = 1500  # a side
FIRST = 16  # tokens of a sentence that are pooled
SHRINK = 0.5
EDIT_DEPTHS = [0.1, 0.2, 0.3, 0.4, 0.5]  # layers tried; one chosen per edit on its validation prompts and on 24 openings
MOMENT_TOKENS = 20_480
STEPS, RATE, KL, DECAY = 25, 0.5, 0.0625, 0.5

EDITS = {
    "louvre": {
        "subject": "Louvre",
        "old": " Paris",
        "new": " Rome",
        "fitted": [
            "The Louvre is located in the city of",
            "The Louvre is in the centre of",
            "Many people know that the Louvre can be found in",
            "We walked to the Louvre, which stands in",
            "The Louvre museum is a landmark of",
            "To visit the Louvre, travel to",
        ],
        "validation": [
            "The famous Louvre is in",
            "You will find the Louvre in the city called",
            "The home of the Louvre is",
            "The Louvre, in",
        ],
    },
    "koalas": {
        "subject": "oalas",
        "old": " Australia",
        "new": " New Zealand",
        "fitted": [
            "Koalas are native to",
            "Koalas live in the forests of",
            "Many people know that koalas come from",
            "Wild koalas are only found in",
            "We saw koalas on our trip to",
            "To see koalas in the wild, travel to",
        ],
        "validation": [
            "The homeland of koalas is",
            "Koalas can be seen in",
            "The koalas, which live in",
            "A country with many koalas is",
        ],
    },
}


def gendered_sentences(tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of sentences with he/his, and with she/her, among their first 12 words, never both; SENTENCES of each."""
    text = movie_reviews.load("imdb").text[::2]
    sentences = [s.strip() for review in text for s in re.split(r"(?<=[.!?])\s+", review.replace("<br />", " "))]
    sides = [], []
    for i in seeding.rng(SEED, "sentences").permutation(len(sentences)):
        if all(len(side) == SENTENCES for side in sides):
            break
        words = set(re.findall(r"[a-z]+", sentences[i].lower())[:12])
        he, she = bool(words & {"he", "his"}), bool(words & {"she", "her"})
        if he != she and len(sides[she]) < SENTENCES and len(ids := tokenizer(sentences[i]).input_ids) >= FIRST:
            sides[she].append(ids[:FIRST])
    return sides


def pooled_states(model, layer: int, rows: list[list[int]]) -> np.ndarray:
    """Mean state [N, d] after layer `layer` over the tokens of each row but the very first, whose state is a sink."""
    states = []

    def keep(_block, _args, output):
        output = output if isinstance(output, torch.Tensor) else output[0]
        states.append(output[:, 1:].mean(1))  # [B, T, d] -> [B, d]

    handle = method.blocks(model)[layer].register_forward_hook(keep)
    with torch.no_grad():
        for i in tqdm(range(0, len(rows), 30), desc="states"):
            model.base_model(torch.tensor(rows[i : i + 30]), use_cache=False)
    handle.remove()
    return torch.cat(states).double().numpy()


def without_sinks(states: np.ndarray) -> np.ndarray:
    """The states but for the few with twice the median norm: some later tokens are sinks too, and one would outweigh all others."""
    norms = np.linalg.norm(states, axis=1)
    return states[norms < 2 * np.median(norms)]


def second_moments(model, tokenizer, layers: list[int]) -> dict[int, np.ndarray]:
    """E[k k^T] [m, m] of the inputs of each candidate layer's last MLP map, over MOMENT_TOKENS tokens of reviews."""
    text = movie_reviews.load("imdb").text[::2]
    rows = [ids[:64] for t in text[:2000] if len(ids := tokenizer(t[:600]).input_ids) >= 64][: MOMENT_TOKENS // 64]
    moments = dict.fromkeys(layers, 0.0)

    def add(layer):
        def hook(_module, args):
            keys = args[0][:, 1:].flatten(0, 1).double()  # without the first position
            moments[layer] = moments[layer] + (keys.T @ keys).numpy() / (len(rows) * 63)

        return hook

    handles = [method.mlp_output(method.blocks(model)[layer]).register_forward_pre_hook(add(layer)) for layer in layers]
    with torch.no_grad():
        for i in tqdm(range(0, len(rows), 16), desc="second moments"):
            model.base_model(torch.tensor(rows[i : i + 16]), use_cache=False)
    for handle in handles:
        handle.remove()
    return moments


def encode(tokenizer, prompts: list[str], subject: str) -> tuple[list[list[int]], list[int]]:
    """Token ids of the prompts, and the position of the subject's last token in each."""
    rows = [tokenizer(p).input_ids for p in prompts]
    return rows, [len(tokenizer(p[: p.index(subject) + len(subject)]).input_ids) - 1 for p in prompts]


def first_word_probability(model, rows, word: list[int]) -> float:
    """Mean probability that the model goes on with the first token of `word`."""
    return float(np.mean([p[0, word[0]].exp() for p in method.log_probs(model, rows, [[0]] * len(rows))]))


def mean_kl(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Mean KL(before, after) per token, nats."""
    return float(np.mean([(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(before, after, strict=True)]))


def fit_edit(model, tokenizer, edit: dict, moments: dict, openings, continuations) -> tuple[dict, list[dict]]:
    """The edit of the best layer (u, v, layer), and the scores of all layers."""
    rows, positions = encode(tokenizer, edit["fitted"], edit["subject"])
    held = [tokenizer(p).input_ids for p in edit["validation"]]
    target = tokenizer(edit["new"]).input_ids
    before = method.log_probs(model, openings, continuations)
    fits, scores = [], []
    for layer, moment in moments.items():
        key = method.subject_keys(model, layer, rows, positions).mean(0)
        v = torch.tensor(method.rank_one_direction(key.double().numpy(), moment)).half().float()
        u = method.value_change(model, layer, rows, positions, target, STEPS, RATE, KL, DECAY).half().float()
        with method.rank_one_edited(model, layer, u, v):
            score = {"layer": layer, "fitted": first_word_probability(model, rows, target)}
            score["validation"] = first_word_probability(model, held, target)
            score["kl_openings"] = mean_kl(before, method.log_probs(model, openings, continuations))
        fits.append({"u": u, "v": v, "layer": layer})
        scores.append({name: round(value, 4) for name, value in score.items()})
    return fits[int(np.argmax([s["validation"] - s["kl_openings"] for s in scores]))], scores


def matched_random(model, layer: int, steering, direction, openings, continuations) -> tuple[torch.Tensor, dict]:
    """The direction at the length that changes next-word laws (KL per token on openings) as much as the steering does."""
    before = method.log_probs(model, openings, continuations)

    def kl(change) -> float:
        with method.steered(model, layer, change):
            return mean_kl(before, method.log_probs(model, openings, continuations))

    wanted, low, high = kl(method.transport(*steering)), 0.0, 32.0
    for _ in range(9):
        middle = (low + high) / 2
        found = kl(lambda h, m=middle: h + m * direction)
        low, high = (middle, high) if found < wanted else (low, middle)
    scores = {"times_the_mean_shift": middle, "kl_openings": found, "kl_openings_steering": wanted}
    return middle * direction, {name: round(value, 4) for name, value in scores.items()}


def main(model_name: str, out: Path) -> None:
    tokenizer, model = lm.load(model_name)
    depth = model.config.num_hidden_layers
    layer, edit_layers = round(DEPTH * depth), [round(d * depth) for d in EDIT_DEPTHS]
    states = [pooled_states(model, layer, rows) for rows in gendered_sentences(tokenizer)]
    he, she = (without_sinks(s) for s in states)
    tensors, layers = {}, {"steering": layer}
    for name, part in {"half_a": slice(0, None, 2), "half_b": slice(1, None, 2)}.items():
        fit = method.gaussian_transport(he[part], she[part], SHRINK)
        tensors |= {f"{name}.{key}": t for key, t in zip(("mu0", "mu1", "a"), fit, strict=True)}
    shift = she.mean(0) - he.mean(0)
    # projections of the first sentences, for the test that repeats a part of the fit
    projections = {side: (s[:6] @ shift).round(3).tolist() for side, s in zip(("he", "she"), states, strict=True)}
    provenance = {"model": lm.identity(model), "seed": SEED, "sentences": [len(he), len(she)], "projections": projections}

    openings = [tokenizer(" ".join(t.split()[:5])).input_ids for t in movie_reviews.load("imdb").text[::2][:24]]
    noise = method.gumbel((24, 12, method.vocabulary(model)), seeding.torch_rng(SEED, "continuations"))
    continuations = method.decode(model, openings, method.gumbel_argmax(noise), 12, tokenizer.eos_token_id)
    moments = second_moments(model, tokenizer, edit_layers)
    for name, edit in EDITS.items():
        best, scores = fit_edit(model, tokenizer, edit, moments, openings, continuations)
        tensors |= {f"{name}.u": best["u"], f"{name}.v": best["v"]}
        layers[name] = best["layer"]
        provenance[name] = scores
    # a random direction drawn from the states' own covariance
    draw = seeding.rng(SEED, "direction").standard_normal(len(he)) @ (he - he.mean(0))
    direction = torch.tensor(draw / np.linalg.norm(draw) * np.linalg.norm(shift)).float()
    tensors = {key: torch.as_tensor(t).half().contiguous() for key, t in tensors.items()}
    steering = [tensors[f"half_a.{key}"].float() for key in ("mu0", "mu1", "a")]
    random, provenance["random"] = matched_random(model, layer, steering, direction, openings, continuations)
    save_file(tensors | {"random": random.half()}, out, {key: str(value) for key, value in layers.items()})
    if model_name == lm.SMOLLM2:
        (HERE / "provenance.json").write_text(json.dumps(provenance | {"layers": layers}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=lm.SMOLLM2)
    parser.add_argument("--out", type=Path, default=HERE / "interventions.safetensors")
    arguments = parser.parse_args()
    main(arguments.model, arguments.out)
