"""The small system that answers questions: words, batches, its GRU against torch's, and training side by side against apart."""

import numpy as np
import pandas as pd
import pytest
import torch

from shared import seeding, vqa

TEXTS = ["Is it red?", "what is it", "red"]
KNOWN = vqa.vocabulary(TEXTS)


def system(seed: int = 0, ordered: bool = True) -> vqa.System:
    return vqa.System(len(KNOWN), 3, seeding.torch_rng(seed, "system"), ordered=ordered, width=8)


def pictures(n: int = 6) -> torch.Tensor:
    return torch.as_tensor(seeding.rng(0, "pictures").integers(256, size=(n, 16, 16, 3), dtype=np.uint8))


def questions(n: int = 40) -> vqa.Asked:
    rng = seeding.rng(0, "asked")
    return vqa.Asked(rng.integers(6, size=n), rng.integers(3, size=n), rng.integers(3, size=n))


def test_words_are_places_and_unknown_ones_are_refused():
    assert KNOWN == ["is", "it", "red", "what"]
    assert vqa.tokens(TEXTS, KNOWN).tolist() == [[1, 2, 3], [4, 1, 2], [3, 0, 0]]
    with pytest.raises(ValueError, match=r"'is it blue\?' has unknown words \['blue'\]"):
        vqa.tokens(["is it blue?"], KNOWN)
    with pytest.raises(ValueError, match="no words"):
        vqa.tokens(["?"], KNOWN)


def test_the_gru_is_torchs():
    net, gru = system(), torch.nn.GRU(8, 8, batch_first=True)
    gru.load_state_dict({
        "weight_ih_l0": net.listen.weight, "bias_ih_l0": net.listen.bias, "weight_hh_l0": net.recall.weight,
        "bias_hh_l0": net.recall.bias,
    })  # fmt: skip
    tokens = vqa.tokens(TEXTS, KNOWN)
    for row in tokens:
        _, state = gru(net.embed[row[row > 0]][None])
        assert torch.allclose(net.read(row[None]), net.plain(net.read_out(state[0])), atol=1e-6)


@pytest.mark.parametrize("ordered", [True, False])
def test_padding_is_not_read(ordered):
    net, tokens = system(ordered=ordered), vqa.tokens(TEXTS, KNOWN)
    assert torch.allclose(net.read(tokens), net.read(torch.nn.functional.pad(tokens, (0, 2))), atol=1e-6)
    turned = net.read(vqa.tokens(["it is red"], KNOWN))
    assert torch.allclose(turned, net.read(tokens)[:1], atol=1e-6) != ordered


def test_a_batch_has_questions_of_the_same_picture():
    asked = questions()
    rows = vqa.draw(asked, 90, 7, seeding.rng(0, "rows"))()
    assert rows.shape == (90, 7) and (asked.picture[rows] == asked.picture[rows[:, :1]]).all()
    assert set(np.unique(rows)) == set(range(40))


def test_side_by_side_is_apart_and_it_learns():
    settings = {"steps": 40, "batch": 4, "each": 3, "lr": 0.01}
    tokens, asked = vqa.tokens(TEXTS, KNOWN), questions()
    asked = asked._replace(answer=asked.text)
    both, lonely = [system(0), system(1)], system(1)
    losses = vqa.train(both, pictures(), tokens, [asked[:20], asked], [seeding.rng(s, "b") for s in (0, 1)], **settings)
    alone = vqa.train([lonely], pictures(), tokens, [asked], [seeding.rng(1, "b")], only=5, **settings)
    assert losses.shape == (2, 40) and torch.allclose(alone[0], losses[1, :5], atol=1e-4)
    assert losses[:, -5:].mean() < 0.8 * losses[:, :5].mean()
    said = vqa.answers(both[1], pictures(), tokens, asked, chunk=2)
    direct = both[1](pictures()[asked.picture], tokens, torch.as_tensor(asked.text)[:, None])[:, 0].argmax(1)
    assert (said == direct.numpy()).all()


def test_a_report_ends_the_training():
    losses = vqa.train(
        [system()], pictures(), vqa.tokens(TEXTS, KNOWN), [questions()], [seeding.rng(0)], steps=9, batch=2, each=2, lr=0.01,
        report=lambda step, _: step < 2,
    )  # fmt: skip
    assert losses.shape == (1, 3)


def test_the_record_gives_back_what_was_said(tmp_path):
    asked = pd.DataFrame({"picture": [0, 0, 4], "question": TEXTS})
    said = {"a": np.array([0, 1, 2], np.uint8), "b": np.array([2, 2, 2], np.uint8)}
    vqa.keep_answers(tmp_path / "answers.npz", said, asked)
    read = vqa.read_answers(tmp_path / "answers.npz", asked)
    assert list(read) == ["a", "b"] and all((read[name] == said[name]).all() for name in said)
    with pytest.raises(ValueError, match="other questions"):
        vqa.read_answers(tmp_path / "answers.npz", asked[::-1])
