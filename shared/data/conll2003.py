"""CoNLL-2003 English named entities (Tjong Kim Sang & De Meulder 2003): Reuters news of 1996-97, a tag a word (real)."""

from typing import NamedTuple

import numpy as np

from shared.data import PackageFile

TAGS = ("O", "LOC", "ORG", "PER")
LICENCE = "Reuters corpus terms (research); not redistributed here, read from bilbystats"
CITATION = "Tjong Kim Sang & De Meulder (2003), Introduction to the CoNLL-2003 shared task, CoNLL-2003"


def _file(part: str, sha256: str) -> PackageFile:
    return PackageFile(distribution="bilbystats", suffix=f"conll2003/{part}.txt", sha256=sha256, licence=LICENCE, citation=CITATION)


FILES = {
    "train": _file("train", "213953b5522fb7924802d883e50f027b2c6ffb5d4d0e63368ed82909f9b60423"),
    "valid": _file("valid", "c02eb19809eafb83998326a0481942eb37d96f31826ae387cfe8773699969f5b"),
    "test": _file("test", "dc4ac7f3d6d01a6bec59261814561da3b287b6b493b97d1f69c580b52ec1831b"),
}


class Words(NamedTuple):
    """Words of a part in their order: the word, its tag's place in TAGS (n,), and the number of its sentence and document (n,)."""

    word: list[str]
    tag: np.ndarray
    sentence: np.ndarray
    document: np.ndarray


def load(part: str) -> Words:
    """The words of "train" (203,621), "valid" (51,362) or "test" (46,435).

    Tags without B- and I- (where an entity ends and the next begins is lost); MISC counts as O. Raises ValueError for another part,
    DataError when the package is missing.
    """
    if part not in FILES:
        raise ValueError(f"part must be one of {', '.join(FILES)}, not {part!r}")
    rows, sentence, document = [], 0, -1
    for line in FILES[part].path().read_text(encoding="utf-8").splitlines():
        if line.startswith("-DOCSTART-"):
            document += 1
        elif not line.strip():
            sentence += 1
        else:
            word, *_, tag = line.split()
            kind = tag.rpartition("-")[2]
            rows.append((word, TAGS.index(kind) if kind in TAGS else 0, sentence, document))
    word, *numbers = zip(*rows, strict=True)
    return Words(list(word), *(np.array(n) for n in numbers))
