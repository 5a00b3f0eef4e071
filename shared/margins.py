"""What a causal language model would rather say next: the log-odds of one word against another at the end of a prompt."""

import copy
from collections.abc import Sequence

import numpy as np
import torch


def margins(tokenizer, model, prompts: Sequence[str], words: tuple[str, str] = (" yes", " no"), batch: int = 16) -> list[float]:
    """log p(words[0]) - log p(words[1]) as the next token of each prompt, natural log, one number a prompt.

    A word of several tokens counts by its first one. What all prompts begin with is computed once; a number depends on the other
    prompts by rounding alone. Raises ValueError when the words begin with the same token, for an empty prompt or no prompt at all.
    """
    first, second = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in words)
    if first == second:
        raise ValueError(f"words: {words[0]!r} and {words[1]!r} begin with the same token")
    tokens = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    if not tokens or not all(tokens):
        raise ValueError("prompts: there is none, or one is empty")
    same = [len(set(column)) == 1 for column in zip(*tokens, strict=False)]
    shared = min([*same, False].index(False), len(same) - 1)  # every prompt keeps a token of its own
    found = np.empty(len(tokens))
    with torch.inference_mode():
        start = model.base_model(torch.tensor([tokens[0][:shared]]), use_cache=True).cache if shared else None
        longest_first = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        for place in range(0, len(tokens), batch):
            some = longest_first[place : place + batch]
            states = _last_states(model, start, shared, [tokens[i][shared:] for i in some])
            logits = model.lm_head(states)  # (batch, vocabulary)
            found[some] = (logits[:, first] - logits[:, second]).numpy()
    return found.tolist()


def _last_states(model, start, shared: int, own: list[list[int]]) -> torch.Tensor:
    """States (batch, width) at the last token of texts. They begin with the `shared` tokens cached in `start`, then `own`."""
    cache = copy.deepcopy(start)
    if cache is not None:
        cache.batch_repeat_interleave(len(own))
    ends = torch.tensor([len(tokens) - 1 for tokens in own])
    padded = torch.zeros(len(own), int(ends.max()) + 1, dtype=torch.long)  # (batch, length), padded at the end
    for row, tokens in enumerate(own):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    seen = torch.arange(shared + padded.shape[1]) <= shared + ends[:, None]
    states = model.base_model(padded, attention_mask=seen.long(), cache=cache).last_hidden_state  # (batch, length, width)
    return states[torch.arange(len(own)), ends]


def chat(tokenizer, prompt: str, opening: str = "Answer:") -> str:
    """The text of a chat in which `prompt` was asked and the model's reply begins with `opening`."""
    asked = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + opening
