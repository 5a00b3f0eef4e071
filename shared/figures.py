"""The look of every figure, and saving one with its sidecar."""

import io
import json

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import display
from matplotlib.figure import Figure
from PIL import Image

from shared import place

DPI = 110  # 7.2 inches wide: about 800 pixels, the width at which a forge shows a figure
MOST_BYTES = 120_000


def use_style() -> None:
    """Set the theme of all replications: seaborn, white grid, Okabe-Ito-like colour-blind-safe palette, 11 pt."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font="DejaVu Sans")
    plt.rcParams.update({
        "figure.dpi": DPI, "savefig.dpi": DPI, "figure.figsize": (7.2, 4.2), "figure.constrained_layout.use": True,
        "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11, "legend.fontsize": 9.5,
        "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "axes.spines.top": False, "axes.spines.right": False,
        "grid.alpha": 0.5, "legend.frameon": False, "lines.linewidth": 1.8,
    })  # fmt: skip


def save(fig: Figure, name: str) -> display.Image:
    """Write `<name>.png` and its sidecar `<name>.json` (alt text, provenance); return the picture.

    Make it the last expression of a cell: the figure is closed, so it is displayed once. The output carries name and alt text.
    Raises ValueError when the PNG would pass 120 kB, naming remedies.
    """
    png, alt = _png(fig), describe(fig)
    plt.close(fig)
    if len(png) > MOST_BYTES:
        raise ValueError(
            f"figure {name!r} is {len(png) // 1000} kB, over {MOST_BYTES // 1000} kB: draw fewer points, "
            "rasterise less, or make the figure or its pictures smaller"
        )
    folder = place.out() / "figures"
    folder.mkdir(exist_ok=True)
    place.write_whole(folder / f"{name}.png", png)
    sidecar = {"figure": name, "alt": alt} | place.provenance()
    place.write_whole(folder / f"{name}.json", (json.dumps(sidecar, indent=1) + "\n").encode())
    return display.Image(png, alt=alt, metadata={"figure": name})


def describe(fig: Figure) -> str:
    """What a figure shows, for readers who cannot see it: panel by panel its title, axes and legend."""
    panels = []
    for ax in fig.axes:
        axes = " against ".join(filter(None, [ax.get_ylabel(), ax.get_xlabel()]))
        words = ": ".join(filter(None, [ax.get_title(), axes]))
        if words and words not in panels:
            panels.append(words)
    legends = [*fig.legends, *(legend for ax in fig.axes if (legend := ax.get_legend()))]
    keys = dict.fromkeys(text.get_text() for legend in legends for text in legend.get_texts())
    parts = [*panels, "legend: " + ", ".join(keys) if keys else ""]
    return "; ".join(" ".join(part.split()) for part in parts if part) or "pictures without axes"


def _png(fig: Figure) -> bytes:
    """The figure as a PNG of 256 colours, about half the size of one in full colour."""
    full, small = io.BytesIO(), io.BytesIO()
    fig.savefig(full, format="png", dpi=DPI)
    picture = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()
