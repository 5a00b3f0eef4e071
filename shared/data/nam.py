"""Nam: 25 crops of photographs with a camera's real noise, and the mean of 500 shots of the same scene (Nam et al. 2016).

From the developer's mirror, not from a package: research use, no licence is stated.
"""

import numpy as np
from PIL import Image

from shared.data import from_mirror

COUNT = 25


def load() -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean crops, (25, 512, 512, 3) uint8 each. Raises DataError when REPLICATIONS_DATA holds no realnoise-pairs."""
    folders = {"Nam_patches": "noise", "Nam_patch_GT": "gt"}
    noisy, clean = (
        np.stack([np.asarray(Image.open(from_mirror("realnoise-pairs", folder, f"{i + 1:02d}_{end}.png"))) for i in range(COUNT)])
        for folder, end in folders.items()
    )
    return noisy, clean
