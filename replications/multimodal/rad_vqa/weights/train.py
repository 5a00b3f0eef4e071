"""Trains the family of systems whose answers the notebook measures, and records all their answers.

    python -m replications.multimodal.rad_vqa.weights.train [--device cuda] [--data FOLDER] [--minutes M] [--out FOLDER]

A family: readers (a bag of words, a GRU) x shares of the training pictures x lessons left out, three seeds each; systems that see
no picture; and systems with more questions in their lessons. Systems with the same reader and share are trained side by side. On
one core of a CPU it takes about an hour. --data: a folder with easy_vqa.npz, written by --prepare, for a machine without the
package.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from replications.multimodal.rad_vqa import method
from shared import seeding, vqa, zoo
from shared.data import easy_vqa

READERS = ("bag", "gru")
SHARES = (100, 50, 20)  # per cent of the training pictures
LESSONS = ("all", "no negations", "no colour yes/no", "no shape yes/no")
MORE = ("with pairs", "with copies")  # lessons of `all`, and pairs of LEARNT or as many copies of their originals
LEARNT = method.UNSEEN["colour"][1]
GRID_SEEDS, MORE_SEEDS = seeding.seeds(3), seeding.seeds(8)
STEPS = 1000  # of a system that has all pictures; a share of them has that share of the steps
TRAINING = {"batch": 32, "each": 16, "lr": 4e-3}
HELD_OUT = 400  # training pictures that no system is trained on: for choosing sizes
KEPT = ("gru | 100 | all | 1000", "bag | 100 | no colour yes/no | 1000")  # systems whose weights are kept
FIRST = 5  # steps whose losses the notebook repeats


class Plan(NamedTuple):
    """What makes a system."""

    reader: str
    share: int
    lessons: str
    seed: int

    @property
    def name(self) -> str:
        return " | ".join(map(str, self))

    @property
    def start(self) -> str:
        """Name of the stream of its first weights and batches: the same for `all` and for `all` with more."""
        return " | ".join((self.reader, str(self.share), "all" if self.lessons in MORE else self.lessons))


def family() -> list[Plan]:
    """Every system, those that are trained side by side next to each other."""
    grid = [Plan(r, share, lessons, seed) for r in READERS for share in SHARES for lessons in LESSONS for seed in GRID_SEEDS]
    more = [Plan("gru", 100, lessons, seed) for lessons in ("all", *MORE) for seed in MORE_SEEDS]
    blind = [Plan("gru", 100, "blind", seed) for seed in GRID_SEEDS]
    return sorted(dict.fromkeys(grid + more + blind), key=lambda plan: (plan.reader, plan.share))


class World(NamedTuple):
    """easy-VQA as the systems see it: pictures and questions of both parts, all texts, and the words of the training set."""

    pictures: dict[str, np.ndarray]
    questions: dict[str, pd.DataFrame]
    texts: list[str]
    words: list[str]

    def asked(self, questions: pd.DataFrame) -> vqa.Asked:
        """Questions as places."""
        answer = pd.Series(range(len(easy_vqa.ANSWERS)), easy_vqa.ANSWERS)
        text = pd.Series(range(len(self.texts)), self.texts)
        return vqa.Asked(questions.picture.to_numpy(), text[questions.question].to_numpy(), answer[questions.answer].to_numpy())


def world(folder: Path | None = None) -> World:
    """The world from the package, or from easy_vqa.npz in a folder."""
    if folder is None:
        read = {part: easy_vqa.load(part) for part in ("train", "test")}
    else:
        kept = np.load(folder / "easy_vqa.npz")
        columns = ("picture", "question", "answer")
        read = {p: (kept[f"{p}.pictures"], pd.DataFrame({c: kept[f"{p}.{c}"] for c in columns})) for p in ("train", "test")}
    taught = read["train"][1].question
    unseen = [form.format(value) for kind, forms in method.UNSEEN.items() for form in forms for value in method.PROPERTIES[kind]]
    return World(
        {part: pictures for part, (pictures, _) in read.items()},
        {part: questions for part, (_, questions) in read.items()},
        sorted({*taught, *unseen}),
        vqa.vocabulary(taught),
    )


def queries(easy: World) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Everything that systems are asked about test pictures (`picture`, `question`, `answer`), and the pairs."""
    test = easy.questions["test"]
    pairs = method.pairs(easy_vqa.facts(test), seeding.rng(0, "variants"))
    after = pairs[["picture", "question_after", "answer_after"]].set_axis(["picture", "question", "answer"], axis=1)
    every = pd.concat([test, pairs[["picture", "question", "answer"]], after]).drop_duplicates(ignore_index=True)
    if every.duplicated(["picture", "question"]).any():
        raise ValueError("a question about a picture has two answers")
    return every, pairs


def lessons(plan: Plan, easy: World) -> vqa.Asked:
    """The questions that a system is trained on."""
    train = easy.questions["train"]
    pictures = seeding.rng(0, "held out").permutation(len(easy.pictures["train"]))[HELD_OUT:]
    if plan.share < 100:
        pictures = seeding.rng(plan.seed, "share").choice(pictures, len(pictures) * plan.share // 100, replace=False)
    mine = train[train.picture.isin(pictures)]
    closed, named = mine.answer.isin(["yes", "no"]), mine.question.str.extract(r"\b(" + "|".join(easy_vqa.COLOURS) + r")\b")[0]
    without = {
        "no negations": closed & mine.question.str.contains(r"\b(?:not|no)\b"),
        "no colour yes/no": closed & named.notna(),
        "no shape yes/no": closed & named.isna(),
    }
    if plan.lessons in without:
        mine = mine[~without[plan.lessons]]
    if plan.lessons in MORE:
        facts = easy_vqa.facts(train)
        pairs = method.pairs(facts[facts.index.isin(pictures)], seeding.rng(plan.seed, "pairs"))
        pairs = pairs[pairs.augmentation == LEARNT]
        columns = (
            ["picture", "question", "answer"] if plan.lessons == "with copies" else ["picture", "question_after", "answer_after"]
        )
        mine = pd.concat([mine, pairs[columns].set_axis(["picture", "question", "answer"], axis=1)])
    asked = easy.asked(mine)
    return asked._replace(picture=np.full_like(asked.picture, len(easy.pictures["train"]))) if plan.lessons == "blind" else asked


def empty(plan: Plan, easy: World) -> vqa.System:
    """A system at its first weights."""
    rng = seeding.torch_rng(plan.seed, f"weights of {plan.start}")
    return vqa.System(len(easy.words), len(easy_vqa.ANSWERS), rng, ordered=plan.reader == "gru")


def trained(plans: list[Plan], easy: World, device: str = "cpu", **stop) -> tuple[list[vqa.System], torch.Tensor]:
    """Systems with one reader and share after their training, and their losses (systems, steps). stop: of vqa.train."""
    systems = [empty(plan, easy).to(device) for plan in plans]
    losses = vqa.train(
        systems, shown(easy, "train", device), vqa.tokens(easy.texts, easy.words).to(device), [lessons(p, easy) for p in plans],
        [seeding.rng(p.seed, f"batches of {p.start}") for p in plans], steps=STEPS * plans[0].share // 100, **TRAINING | stop,
    )  # fmt: skip
    return systems, losses


def shown(easy: World, part: str, device: str = "cpu") -> torch.Tensor:
    """A part's pictures, and after the last of them an empty one for those who are not to see."""
    pictures = torch.as_tensor(easy.pictures[part])
    return torch.cat([pictures, torch.full_like(pictures[:1], 255)]).to(device)


def said(plan: Plan, system: vqa.System, easy: World, questions: pd.DataFrame, part: str = "test") -> np.ndarray:
    """A system's answers (n,) to questions about a part's pictures, as places in ANSWERS."""
    asked = easy.asked(questions)
    device = system.embed.device.type
    if plan.lessons == "blind":
        asked = asked._replace(picture=np.full_like(asked.picture, len(easy.pictures[part])))
    return vqa.answers(system, shown(easy, part, device), vqa.tokens(easy.texts, easy.words).to(device), asked)


def progress(names: str, minutes: float):
    """A report for vqa.train that prints every 20 s and ends the training when the minutes are over."""
    begun, shown = time.monotonic(), [time.monotonic()]

    def report(step: int, losses: torch.Tensor) -> bool:
        now = time.monotonic()
        if now - shown[0] > 20 or step in (20, 100):
            shown[0] = now
            print(f"{names}: step {step}, loss {losses.mean().item():.3f}, {now - begun:.0f} s", flush=True)
        return now - begun < 60 * minutes

    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prepare", type=Path, help="only write easy_vqa.npz into this folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of one group of systems, at most")
    parser.add_argument("--only", type=int, help="so many steps of each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    easy = world(given.data)
    if given.prepare:
        arrays = {f"{part}.pictures": pictures for part, pictures in easy.pictures.items()}
        arrays |= {
            f"{p}.{c}": table[c].to_numpy(str if c != "picture" else int) for p, table in easy.questions.items() for c in table
        }
        given.prepare.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(given.prepare / "easy_vqa.npz", **arrays)
        return
    torch.set_num_threads(1)
    record(easy, given)


def record(easy: World, given: argparse.Namespace) -> None:
    """Train all systems, write their answers and what is kept of their weights."""
    every, plans = queries(easy)[0], family()
    truth, test = easy.asked(every).answer, easy.questions["test"]
    held = easy.questions["train"]
    held = held[held.picture.isin(seeding.rng(0, "held out").permutation(len(easy.pictures["train"]))[:HELD_OUT])]
    answers, kept, scores, begun = {}, {}, {}, time.monotonic()
    for reader in READERS:
        for share in SHARES:
            group = [plan for plan in plans if (plan.reader, plan.share) == (reader, share)]
            many = len(group) if given.device != "cpu" else 1  # a CPU gains nothing by training them side by side
            report = progress(f"{reader} {share}", given.minutes)
            parts = [group[i : i + many] for i in range(0, len(group), many)]
            systems = [s for part in parts for s in trained(part, easy, given.device, report=report, only=given.only)[0]]
            print(f"{reader} {share}: {len(group)} systems, {time.monotonic() - begun:.0f} s", flush=True)
            for plan, system in zip(group, systems, strict=True):
                answers[plan.name] = said(plan, system, easy, every).astype(np.uint8)
                validated = said(plan, system, easy, held, "train") == easy.asked(held).answer
                named = held.answer.isin(easy_vqa.SHAPES).to_numpy()
                print(f"  {plan.name}: held out {validated.mean():.3f}, shapes named {validated[named].mean():.3f}", flush=True)
                if plan.name in KEPT:
                    kept |= {f"{plan.name}.{key}": value for key, value in system.state_dict().items()}
                    scores[f"{plan.name} accuracy"] = float((answers[plan.name] == truth)[: len(test)].mean())
            vqa.keep_answers(given.out / "answers.npz", answers, every)
    right = np.stack([answers[plan.name] == truth for plan in plans])
    scores["mean accuracy"] = float(right[:, : len(test)].mean())
    scores["mean accuracy, questions that are built"] = float(right[:, len(test) :].mean())
    first = {name: first_losses(next(p for p in plans if p.name == name), easy) for name in KEPT}
    about = {"answers": zoo.digest(given.out / "answers.npz"), "device": given.device, "first_losses": first, "steps": STEPS}
    zoo.keep(given.out / "systems.safetensors", kept, scores, seconds=round(time.monotonic() - begun), **about)


def first_losses(plan: Plan, easy: World) -> list[float]:
    """Losses of a system's first steps, on the CPU."""
    return [round(loss, 4) for loss in trained([plan], easy, only=FIRST)[1][0].tolist()]


if __name__ == "__main__":
    main()
