"""Stable Diffusion itself, for the paper profile: the usual pipeline, and one fine-tuned to zero terminal SNR.

A pipeline is a name on the model hub or a folder that holds one. It runs on the GPU in float16 where there is one. diffusers
is imported where it is used, because the laptop profile does not need it and it is slow to import.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from replications.diffusion.zero_terminal_snr import method

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def load_pipeline(name: str, fixed: bool):
    """The text-to-image pipeline `name` (a diffusers StableDiffusionPipeline), sampled by deterministic DDIM.

    fixed: v prediction, rescaled schedule, trailing steps, for weights that were fine-tuned so; otherwise noise prediction,
    the pipeline's own schedule, leading steps. Raises OSError when there is no such pipeline.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(name, dtype=dtype, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        prediction_type="v_prediction" if fixed else "epsilon",
        rescale_betas_zero_snr=fixed,
        timestep_spacing="trailing" if fixed else "leading",
        clip_sample=False,
        set_alpha_to_one=True,  # the last step ends at x_0, as in method.sample
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@torch.inference_mode()
def brightness(pipeline, prompts: list[str], rng: torch.Generator, n_steps: int, weight: float, phi: float) -> np.ndarray:
    """The mean pixel (len(prompts),) of one unclipped picture per prompt, -1 black and 1 white.

    rng: for the starting noise; the same state gives pipelines of one size the same noise. weight, phi: see method.guide.
    """
    made = []
    for prompt in prompts:  # one by one, for memory
        latent = pipeline(
            prompt, num_inference_steps=n_steps, guidance_scale=weight, guidance_rescale=phi, generator=rng, output_type="latent"
        ).images
        picture = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample  # (1, 3, H, W)
        made.append(method.brightness(picture.float().cpu()))
    return np.concatenate(made)


def read_pictures(folder: Path) -> Iterator[Tensor]:
    """The pictures of a folder in the order of their names, each (1, 3, H, W) in [-1, 1]. Raises ValueError if none."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"folder must hold pictures ({', '.join(sorted(SUFFIXES))}): {folder}")
    for path in paths:
        with Image.open(path) as picture:
            yield torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
