"""Makes semeval2010.npz from the files of SemEval-2010 Task 8.

    python shared/data/extracts/make_semeval2010.py FOLDER

FOLDER holds TRAIN_FILE.TXT.gz and TEST_FILE_FULL.TXT.gz. Kept are the labels, and of each sentence 128 principal components (of the
training sentences) of four mean vectors of MiniLM's last layer: over the first entity, the second, the words between, and all.
"""

import gzip
import re
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from transformers import AutoModel, AutoTokenizer

from shared.data import minilm

COMPONENTS = 128
FILES = {"train": "TRAIN_FILE.TXT.gz", "test": "TEST_FILE_FULL.TXT.gz"}


def read(path: Path) -> tuple[list[str], list[str]]:
    """Marked sentences and labels, in the file's order."""
    blocks = gzip.decompress(path.read_bytes()).decode().replace("\r", "").strip().split("\n\n")
    lines = [block.strip().split("\n") for block in blocks]
    return [line[0].split("\t")[1].strip().strip('"') for line in lines], [line[1].strip() for line in lines]


def parts(sentence: str) -> tuple[str, list[tuple[int, int]]]:
    """The sentence without marks, and the places (begin, end) of both entities in it."""
    before, e1, between, e2, after = re.fullmatch(r"(.*)<e1>(.*)</e1>(.*)<e2>(.*)</e2>(.*)", sentence).groups()
    at = np.cumsum([len(before), len(e1), len(between), len(e2)])
    return before + e1 + between + e2 + after, [(at[0], at[1]), (at[2], at[3])]


@torch.no_grad()
def embed(sentences: list[str]) -> np.ndarray:
    """(n, 4 * 384)."""
    tokenizer = AutoTokenizer.from_pretrained(minilm.FILE.path().parent)
    model = AutoModel.from_pretrained(minilm.FILE.path().parent, dtype=torch.float32).eval()
    rows = []
    for sentence in sentences:
        text, entities = parts(sentence)
        words = tokenizer(text, truncation=True, max_length=256, return_tensors="pt", return_offsets_mapping=True)
        offsets = words.pop("offset_mapping")[0].numpy()
        hidden = model(**words).last_hidden_state[0].numpy()
        spans = [*entities, (entities[0][1], entities[1][0])]
        inside = [(offsets[:, 0] < end) & (offsets[:, 1] > begin) & (offsets[:, 1] > offsets[:, 0]) for begin, end in spans]
        means = [hidden[i].mean(0) if i.any() else np.zeros(384) for i in inside]
        rows.append(np.concatenate([*means, hidden.mean(0)]))
    return np.array(rows)


def main(folder: Path) -> None:
    sentences, names = zip(*(read(folder / name) for name in FILES.values()), strict=True)
    kinds = sorted({name for part in names for name in part}, key=lambda name: (name != "Other", name))
    vectors = [embed(part) for part in sentences]
    pca = PCA(COMPONENTS, svd_solver="full").fit(vectors[0])
    kept = {"names": np.array(kinds)}
    for part, x, labels in zip(FILES, vectors, names, strict=True):
        kept |= {
            f"{part}_features": pca.transform(x).astype(np.float16),
            f"{part}_labels": np.array([kinds.index(n) for n in labels], np.uint8),
        }
    print({k: v.shape for k, v in kept.items()}, pca.explained_variance_ratio_.sum())
    np.savez_compressed(Path(__file__).parent / "semeval2010.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
