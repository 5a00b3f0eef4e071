"""Are two pictures the same figure, drawn on two processors?

Both are reduced four times. A pixel of one is matched when the other has its colour at most one (reduced) pixel away: a
curve may move by its own width, a series may not be missing.
"""

import io

import numpy as np
from PIL import Image, ImageFilter

REDUCE = 4
CONTRAST = 0.12  # of full black-white contrast, in any colour channel
SHARE = 0.002  # of all pixels that may be without a match


def difference(reference: bytes, new: bytes) -> str:
    """Empty when two PNGs show the same figure, else what differs, in words."""
    if reference == new:
        return ""
    one, two = (Image.open(io.BytesIO(png)).convert("RGB") for png in (reference, new))
    if one.size != two.size:
        return f"size {two.size[0]}x{two.size[1]} instead of {one.size[0]}x{one.size[1]} pixels"
    one, two = one.reduce(REDUCE), two.reduce(REDUCE)
    share = max(_unmatched(one, two), _unmatched(two, one))
    return f"{share:.2%} of the picture has no match (at most {SHARE:.2%} may)" if share > SHARE else ""


def _unmatched(one: Image.Image, two: Image.Image) -> float:
    """The share of the pixels of `one` whose colour `two` does not have within a pixel."""
    low, high = (np.asarray(two.filter(f(3)), dtype=float) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    pixels, slack = np.asarray(one, dtype=float), 255 * CONTRAST  # (h, w, 3)
    return float(((pixels < low - slack) | (pixels > high + slack)).any(axis=2).mean())
