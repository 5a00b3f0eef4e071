"""Makes cebab.npz from CEBaB v1.1.

    python shared/data/extracts/make_cebab.py CEBaB-v1.1.zip

Of each review of train_exclusive, dev and test: words, majority labels of four aspects, majority stars, its family (reviews edited
from one original), whether it is the original, and which aspect was edited. Workers and restaurants' metadata are left out. The
MiniLM embedding of each review, one byte a dimension: embedding = scale * byte, one scale a dimension.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from shared.data import minilm

SPLITS = {"train": "train_exclusive", "dev": "dev", "test": "test"}
ASPECTS = ("food", "service", "ambiance", "noise")
VALUES = {"Negative": 0, "unknown": 1, "Positive": 2}  # "" (not asked) and "no majority": -1


def fields(rows: list[dict]) -> dict[str, np.ndarray]:
    """What is kept of one split but for embeddings."""
    families = {original: i for i, original in enumerate(dict.fromkeys(row["original_id"] for row in rows))}
    words = [" ".join(row["description"].split()) for row in rows]
    return {
        "texts": np.frombuffer("\n".join(words).encode(), np.uint8),
        "aspects": np.array([[VALUES.get(row[f"{aspect}_aspect_majority"], -1) for aspect in ASPECTS] for row in rows], np.int8),
        "stars": np.array([int(s) if (s := row["review_majority"]).isdigit() else 0 for row in rows], np.int8),
        "family": np.array([families[row["original_id"]] for row in rows], np.int16),
        "is_original": np.array([row["is_original"] for row in rows]),
        "edited": np.array([ASPECTS.index(row["edit_type"]) if row["edit_type"] else -1 for row in rows], np.int8),
    }


def main(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        splits = {name: fields(json.loads(packed.read(f"CEBaB-v1.1/{file}.json"))) for name, file in SPLITS.items()}
    embedded = {name: minilm.embed(bytes(kept["texts"]).decode().split("\n")) for name, kept in splits.items()}
    scale = np.abs(np.concatenate(list(embedded.values()))).max(0) / 127
    kept = {f"{name}_{field}": array for name, split in splits.items() for field, array in split.items()}
    kept |= {f"{name}_bytes": np.round(e / scale).astype(np.int8) for name, e in embedded.items()}
    print({name: array.shape for name, array in kept.items()})
    np.savez_compressed(Path(__file__).parent / "cebab.npz", scale=scale.astype(np.float32), **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
