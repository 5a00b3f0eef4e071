"""Makes vader_ratings.npz from the ratings that come with VADER.

    python shared/data/extracts/make_vader_ratings.py FOLDER

FOLDER: hutto_ICWSM_2014.tar.gz of vaderSentiment 3.3.2's source archive, unpacked.

Of each set of texts the first 2,000: the first 20 ratings of each; its MiniLM embedding in 32 principal components of the set, as
float16; and, to check these, the components, their mean and the words of the first 20 texts.
"""

import ast
import sys
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from shared.data import minilm

N, RATERS, COMPONENTS, CHECKED = 2000, 20, 32, 20
SETS = {"tweets": "tweets", "products": "amazonReviewSnippets"}


def main(folder: Path) -> None:
    kept = {}
    for name, stem in SETS.items():
        rated = [line.split("\t") for line in (folder / f"{stem}_anonDataRatings.txt").read_text("utf-8-sig").splitlines()[:N]]
        texts = [line.split("\t") for line in (folder / f"{stem}_GroundTruth.txt").read_text("utf-8-sig").splitlines()[:N]]
        assert [row[0] for row in rated] == [row[0] for row in texts]
        words = [row[2] for row in texts]
        e = minilm.embed(words)
        pca = PCA(COMPONENTS, svd_solver="full").fit(e)
        kept |= {
            f"{name}_ratings": np.array([ast.literal_eval(row[3])[:RATERS] for row in rated], np.int8),
            f"{name}_features": pca.transform(e).astype(np.float16),
            f"{name}_mean": pca.mean_.astype(np.float32),
            f"{name}_components": pca.components_.astype(np.float32),
            f"{name}_texts": np.array(words[:CHECKED]),
        }
        print(name, kept[f"{name}_ratings"].shape, pca.explained_variance_ratio_.sum())
    np.savez_compressed(Path(__file__).parent / "vader_ratings.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
