"""Makes vader_domains.npz from the ratings that come with VADER.

    python shared/data/extracts/make_vader_domains.py FOLDER

FOLDER: hutto_ICWSM_2014.tar.gz of vaderSentiment 3.3.2's source archive, unpacked.

Of each of the four sets of texts 750 whose mean rating is .3 or more and 750 whose mean is -.3 or less, drawn with seed 0: the mean
of all ratings; the first 15 ratings; the MiniLM embedding in 64 principal components of all 6,000 texts, as float16; and, to check
these, the components, their mean and the words of the first 5 texts.
"""

import ast
import sys
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from shared.data import minilm

OF_EACH_SIGN, CLEAR, RATERS, COMPONENTS, CHECKED = 750, 0.3, 15, 64, 5
SETS = {
    "tweets": "tweets",
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}


def read(path: Path) -> dict[str, list[str]]:
    """Lines of a file of tab-separated columns, by their first: not every file has them in one order."""
    return {row[0]: row[1:] for line in path.read_text("utf-8-sig").splitlines() if len(row := line.split("\t")) > 1}


def chosen(folder: Path, stem: str) -> tuple[list[list[int]], list[str]]:
    """Ratings and words of the texts that are kept of one set."""
    rated, texts = read(folder / f"{stem}_anonDataRatings.txt"), read(folder / f"{stem}_GroundTruth.txt")
    assert rated.keys() == texts.keys()
    ratings, words = [ast.literal_eval(row[2]) for row in rated.values()], [texts[key][1] for key in rated]
    mean, rng = np.array([np.mean(r) for r in ratings]), np.random.default_rng(0)
    kept = [rng.permutation(np.flatnonzero(sign * mean >= CLEAR))[:OF_EACH_SIGN] for sign in (1, -1)]
    order = rng.permutation(np.concatenate(kept))
    return [ratings[i] for i in order], [words[i] for i in order]


def main(folder: Path) -> None:
    sets = {name: chosen(folder, stem) for name, stem in SETS.items()}
    e = {name: minilm.embed(words) for name, (_, words) in sets.items()}
    pca = PCA(COMPONENTS, svd_solver="full").fit(np.concatenate(list(e.values())))
    kept = {"mean": pca.mean_.astype(np.float32), "components": pca.components_.astype(np.float16)}
    for name, (ratings, words) in sets.items():
        kept |= {
            f"{name}_opinion": np.array([np.mean(r) for r in ratings], np.float32),
            f"{name}_ratings": np.array([r[:RATERS] for r in ratings], np.int8),
            f"{name}_features": pca.transform(e[name]).astype(np.float16),
            f"{name}_texts": np.array(words[:CHECKED]),
        }
    print({name: part.shape for name, part in kept.items()}, pca.explained_variance_ratio_.sum())
    np.savez_compressed(Path(__file__).parent / "vader_domains.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
