"""Margins of next words, against one plain forward pass a prompt."""

import pytest
import torch

from shared import margins, peers


class Letters:
    """A tokenizer: a letter a token."""

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return type("Encoded", (), {"input_ids": [ord(letter) % 50 for letter in text]})


@pytest.fixture(scope="module")
def model():
    transformers = peers.load("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes)).eval()


PROMPTS = ["abcd", "abcdefgh", "abxy", "abq", "ab"]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], ["z", "abc"]])
def test_margins_are_those_of_one_pass_a_prompt(model, prompts):
    letters = Letters()
    with torch.inference_mode():
        logits = [model(torch.tensor([letters(p, False).input_ids])).logits[0, -1] for p in prompts]
    wanted = [float(row.log_softmax(-1)[ord("y") % 50] - row.log_softmax(-1)[ord("n") % 50]) for row in logits]
    assert margins.margins(letters, model, prompts, ("yes", "no"), batch=2) == pytest.approx(wanted, abs=1e-5)


def test_bad_input_is_named(model):
    with pytest.raises(ValueError, match="words: 'yes' and 'yo' begin"):
        margins.margins(Letters(), model, PROMPTS, ("yes", "yo"))
    for prompts in ([], ["a", ""]):
        with pytest.raises(ValueError, match="prompts: there is none"):
            margins.margins(Letters(), model, prompts, ("yes", "no"))
