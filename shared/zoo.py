"""Small trained networks that are kept in the repository: safetensors files, and what is known about each in provenance.json.

A replication's networks lie in its folder `weights/`, beside the script `train.py` that made them; `make fresh` trains them anew
in build/ and compares their scores with those on record.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from shared import place

MEBIBYTES = 4  # of one file, at most
PROVENANCE = "provenance.json"


def keep(path: Path, tensors: Mapping[str, torch.Tensor], scores: Mapping[str, float], **about) -> None:
    """Write named tensors, floating ones as fp16, and their entry in provenance.json beside the file.

    path: weights/<name>.safetensors. scores: what a second training is compared by, such as held-out losses or accuracies.
    about: whatever else is worth knowing, as JSON: seed, data, settings, seconds of one core, first losses.
    Raises ValueError, and writes nothing, when a tensor or a score is not finite, there is no score or the file would be too large.
    """
    small = {name: _small(name, tensor) for name, tensor in tensors.items()}
    if sum(t.numel() * t.element_size() for t in small.values()) > MEBIBYTES * 2**20:
        raise ValueError(f"tensors: {path.name} would be larger than {MEBIBYTES} MiB; keep fewer seeds or arms in one file")
    if not scores or not all(torch.isfinite(torch.tensor(float(score))) for score in scores.values()):
        raise ValueError(f"scores: {path.name} needs at least one, and finite ones, not {dict(scores)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(small, path)
    path.chmod(0o644)  # safetensors lets the owner alone read
    entry = {"sha256": digest(path), "scores": {k: round(float(v), 4) for k, v in scores.items()}, "torch": torch.__version__}
    everything = _provenance(path.parent)
    everything["files"][path.name] = entry | about
    place.write_whole(path.parent / PROVENANCE, (json.dumps(everything, indent=1, sort_keys=True) + "\n").encode())


def record(path: Path) -> dict:
    """The entry of a kept file: sha256, scores, torch and what `keep` was told. Raises ValueError when there is none."""
    entries = _provenance(path.parent)["files"]
    if path.name not in entries:
        raise ValueError(f"{path.parent} has no record of {path.name}, only of {', '.join(entries) or 'nothing'}; {_remedy(path)}")
    return entries[path.name]


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """The scores on record of the files kept in a folder, by file; empty where there are none (or none that `keep` wrote)."""
    entries = _provenance(folder).get("files", {})
    return {name: entry["scores"] for name, entry in entries.items() if isinstance(entry, dict) and "scores" in entry}


def read(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a kept file, floating ones as float32. Raises ValueError when it is missing or not the one on record."""
    wanted = record(path)["sha256"]
    if not path.exists():
        raise ValueError(f"{path} is missing; {_remedy(path)}")
    if digest(path) != wanted:
        raise ValueError(f"{path} is not the file that {PROVENANCE} describes; {_remedy(path)}")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _provenance(folder: Path) -> dict:
    note = folder / PROVENANCE
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {"files": {}}


def _small(name: str, tensor: torch.Tensor) -> torch.Tensor:
    kept = tensor.detach().cpu().contiguous()
    kept = kept.half() if kept.is_floating_point() else kept
    if kept.is_floating_point() and not kept.isfinite().all():
        raise ValueError(f"tensors: {name} holds NaN, infinity or a number beyond fp16's 65504")
    return kept


def _remedy(path: Path) -> str:
    return f"restore {path.parent} from the repository, or train it again with the train.py there"
