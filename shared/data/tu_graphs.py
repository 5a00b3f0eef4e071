"""Graphs of the TU collection in the text format of pytorch_DGCNN: MUTAG (188 molecules), NCI1 (4,110), ... (real)."""

import gzip
from pathlib import Path

import numpy as np

from shared.data import DataError, from_mirror

LICENCE = "the mirror's repository is MIT; the collection states none for the sets"
CITATION = "Morris et al. (2020), TUDataset: a collection of benchmark datasets for learning with graphs, arXiv:2007.08663"


def load(name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """(graphs, labels): tags (v,) and edges (m, 2) of every graph, each undirected edge once; labels (n,), int, 0, 1, ...

    name: "MUTAG", "NCI1", ...: <name>.txt or <name>.txt.gz in graph-classification/<name> under $REPLICATIONS_DATA. Tags are
    numbered 0, 1, ... in the order of their value in the file. Raises DataError when it is not there or is cut short.
    """
    folder = from_mirror("graph-classification", name)
    for path in (folder / f"{name}.txt", folder / f"{name}.txt.gz"):
        if path.exists():
            return read(path)
    raise DataError(f"{folder} has neither {name}.txt nor {name}.txt.gz")


def read(path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """What `load` returns, from a file.

    Its lines: the number of graphs; for each graph "nodes label", and for each of its nodes "tag degree neighbours".
    """
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = iter(text.decode("ascii").splitlines())
    raw, labels = [], []
    try:
        for _ in range(int(next(lines))):
            n, label = map(int, next(lines).split()[:2])
            nodes = [list(map(int, next(lines).split())) for _ in range(n)]
            ends = {(min(i, j), max(i, j)) for i, (_, degree, *others) in enumerate(nodes) for j in others[:degree] if i != j}
            raw.append(([node[0] for node in nodes], np.array(sorted(ends), dtype=int).reshape(-1, 2)))
            labels.append(label)
    except (StopIteration, ValueError) as error:
        raise DataError(f"{path} is cut short or damaged at graph {len(raw)}; put the file there again") from error
    known = np.unique(np.concatenate([tags for tags, _ in raw]))
    graphs = [(np.searchsorted(known, tags), edges) for tags, edges in raw]
    return graphs, np.unique(labels, return_inverse=True)[1]
