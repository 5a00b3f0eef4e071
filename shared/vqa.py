"""A small system that answers questions about pictures, many such systems trained side by side, and the record of their answers.

Pictures are (n, side, side, 3) uint8, texts are rows of words, answers are places in a list of words.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional


def words(text: str) -> list[str]:
    """The words of a question, lower case, without its punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Every word that occurs in the texts, sorted."""
    return sorted({word for text in texts for word in words(text)})


def tokens(texts: Sequence[str], known: Sequence[str]) -> Tensor:
    """Words of texts as places in `known` plus 1, and 0 after the end: (n, longest), int64.

    Raises ValueError for a text without words and for one with a word that is not known: what a system says of a word that it
    never met tells nothing about what it knows.
    """
    place = {word: i for i, word in enumerate(known, 1)}
    split = [words(text) for text in texts]
    for text, found in zip(texts, split, strict=True):
        if not found or (strange := [word for word in found if word not in place]):
            raise ValueError(f"texts: {text!r} has {f'unknown words {strange}' if found else 'no words'}")
    rows = torch.zeros(len(split), max(map(len, split), default=0), dtype=torch.long)
    for row, found in zip(rows, split, strict=True):
        row[: len(found)] = torch.tensor([place[word] for word in found])
    return rows


class Asked(NamedTuple):
    """Questions about pictures, each array (n,): the picture, the text asked, and the right answer, as places in their lists."""

    picture: NDArray[np.int64]
    text: NDArray[np.int64]
    answer: NDArray[np.int64]

    def __getitem__(self, rows) -> "Asked":
        return Asked(*(part[rows] for part in (self.picture, self.text, self.answer)))


# ---------------------------------------------------------------- the system


class System(nn.Module):
    """Three convolutions see, a bag of words or a GRU reads, and the product of both is answered.

    words, answers: how many there are. ordered: read with a GRU, word after word, instead of adding them up. width: of features.
    Layers: `filters`, weights of the convolutions, a row an output channel; `even`, `look`, `level` make features of what they see;
    `embed`, a row a word and row 0 for none; `listen` and `recall`, the GRU's gates from the word and from its state; `read_out`
    and `plain` make features of what was read; `say` gives scores of answers.
    """

    def __init__(self, words: int, answers: int, rng: torch.Generator, *, ordered: bool, width: int = 64):
        super().__init__()
        self.ordered = ordered
        channels = (3, 16, 32, width)
        self.filters = nn.ModuleList(nn.Linear(9 * into, out) for into, out in pairwise(channels))
        self.even, self.look, self.level = nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)
        self.embed = nn.Parameter(torch.empty(words + 1, width))
        if ordered:
            self.listen, self.recall = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.read_out, self.plain = nn.Linear(width, width), nn.LayerNorm(width)
        self.say = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, answers))
        for layer in (layer for layer in self.modules() if isinstance(layer, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=rng)
            nn.init.uniform_(layer.bias, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=rng)
        nn.init.normal_(self.embed, std=1.0, generator=rng)
        for layer in self.filters:  # larger than torch's own start, with which shapes are learnt late
            nn.init.kaiming_uniform_(layer.weight, generator=rng)

    def see(self, pictures: Tensor) -> Tensor:
        """Features (b, width) of pictures (b, side, side, 3): 3 x 3 convolutions of stride 2, then mean and most over places."""
        x = 1 - pictures.permute(0, 3, 1, 2).float() / 255
        for layer in self.filters:
            x = functional.relu(functional.conv2d(x, layer.weight.unflatten(1, (-1, 3, 3)), layer.bias, stride=2, padding=1))
        return self.level(self.look(self.even(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))))

    def read(self, tokens: Tensor) -> Tensor:
        """Features (t, width) of texts (t, longest)."""
        here = (tokens > 0)[:, :, None]
        x = self.embed[tokens]
        if not self.ordered:
            return self.plain(self.read_out((x * here).sum(1)))
        heard, state = self.listen(x), torch.zeros_like(x[:, 0])
        for i in range(tokens.shape[1]):
            reset, keep, new = heard[:, i].chunk(3, dim=1)
            old_reset, old_keep, old_new = self.recall(state).chunk(3, dim=1)
            new = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
            keep = torch.sigmoid(keep + old_keep)
            state = torch.where(here[:, i], keep * state + (1 - keep) * new, state)
        return self.plain(self.read_out(state))

    def forward(self, pictures: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
        """Scores (b, k, answers) of the k texts that are asked about each picture, text (b, k) rows of tokens."""
        return self.say(self.see(pictures)[:, None] * self.read(tokens)[text])


def draw(asked: Asked, batch: int, each: int, rng: np.random.Generator) -> Callable[[], NDArray[np.int64]]:
    """A function that draws a batch each time: rows (batch, each) of `asked`, `each` questions about every picture drawn."""
    order = np.argsort(asked.picture, kind="stable")
    _, start, count = np.unique(asked.picture[order], return_index=True, return_counts=True)

    def rows() -> NDArray[np.int64]:
        some = rng.integers(len(start), size=batch)
        return order[start[some][:, None] + (rng.random((batch, each)) * count[some][:, None]).astype(int)]

    return rows


def train(
    systems: Sequence[System],
    pictures: Tensor,
    tokens: Tensor,
    asked: Sequence[Asked],
    rngs: Sequence[np.random.Generator],
    *,
    steps: int,
    batch: int,
    each: int,
    lr: float,
    only: int | None = None,
    report: Callable[[int, Tensor], bool] = lambda step, losses: True,
) -> Tensor:
    """Train systems of one kind side by side, each on its own questions, in place; their losses (systems, steps).

    Adam, its rate falling from lr to 0 along half a cosine; a step has `each` questions about each of `batch` pictures. Runs where
    the pictures are. only: stop after so many of the steps. report(step, losses): called after a step; False stops the training.
    """
    device = pictures.device
    weights, _ = stack_module_state(list(systems))
    weights = {name: value.detach().to(device).requires_grad_() for name, value in weights.items()}
    optimiser = torch.optim.Adam(list(weights.values()), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    picture, text, answer = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(part) for part in parts], batch_first=True).to(device)
        for parts in zip(*asked, strict=True)
    )
    drawn = [draw(one, batch, each, rng) for one, rng in zip(asked, rngs, strict=True)]
    tokens, one = tokens.to(device), systems[0]

    def loss(weights: dict[str, Tensor], seen: Tensor, text: Tensor, answer: Tensor) -> Tensor:
        scores = functional_call(one, (weights, {}), (seen, tokens, text))
        return functional.cross_entropy(scores.flatten(0, 1), answer.flatten())

    losses = []
    for step in range(steps)[:only]:
        rows = torch.as_tensor(np.stack([rows() for rows in drawn])).to(device)  # (systems, batch, each)
        seen, asks, right = (part.gather(1, rows.flatten(1)).view_as(rows) for part in (picture, text, answer))
        found = vmap(loss)(weights, pictures[seen[:, :, 0]], asks, right)
        optimiser.zero_grad()
        found.sum().backward()
        optimiser.step()
        schedule.step()
        losses.append(found.detach())
        if not report(step, losses[-1]):
            break
    with torch.no_grad():
        for i, system in enumerate(systems):
            for name, parameter in system.named_parameters():
                parameter.copy_(weights[name][i])
    return torch.stack(losses, dim=1).cpu()


@torch.no_grad()
def answers(system: System, pictures: Tensor, tokens: Tensor, asked: Asked, chunk: int = 500) -> NDArray[np.int64]:
    """The likeliest answers (n,) of a system to questions about pictures."""
    read = system.read(tokens)
    needed, place = np.unique(asked.picture, return_inverse=True)
    seen = torch.cat([system.see(pictures[torch.tensor(needed[i : i + chunk])]) for i in range(0, len(needed), chunk)])
    return system.say(seen[torch.tensor(place)] * read[torch.tensor(asked.text)]).argmax(1).cpu().numpy()


# ---------------------------------------------------------------- the record


def keep_answers(path: Path, said: dict[str, NDArray[np.uint8]], questions) -> None:
    """Write the answers (n,) of systems, by name, to n questions: a DataFrame with columns `picture` and `question`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, said=np.stack(list(said.values()), axis=1), systems=list(said), picture=questions.picture.to_numpy(np.int16),
        question=questions.question.to_numpy(str),
    )  # fmt: skip


def read_answers(path: Path, questions) -> dict[str, NDArray[np.uint8]]:
    """The answers (n,) of every system, by name, to the n questions that are on record, in their order.

    Raises ValueError when they were asked something else.
    """
    with np.load(path) as kept:
        if not (np.array_equal(kept["picture"], questions.picture) and np.array_equal(kept["question"], questions.question)):
            raise ValueError(f"{path.name} holds answers to other questions; train the systems again with weights/train.py")
        return dict(zip(kept["systems"].tolist(), kept["said"].T, strict=True))
