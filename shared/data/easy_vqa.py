"""easy-VQA (Zhou 2019): 5,000 drawn pictures, each with one coloured shape, and 48,248 questions about them."""

import hashlib
import io
import json
import re

import numpy as np
from PIL import Image

from shared.data import DataError, PackageFile

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
ANSWERS = (*COLOURS, *SHAPES, "yes", "no")


def _file(part: str, sha256: str) -> PackageFile:
    return PackageFile(
        distribution="easy-vqa",
        suffix=f"easy_vqa/data/{part}/questions.json",
        sha256=sha256,
        licence="MIT (Victor Zhou)",
        citation="Zhou (2019), Easy Visual Question Answering, a data set and a tutorial",
    )


FILES = {
    "train": _file("train", "bb67697636aed0e65631d4266824aebeae5c833b0f37ed781e20752e85617ec5"),
    "test": _file("test", "0d4630a51bafec65343e2f6af9cdd20cf8eae214344ef57636202eec409553f7"),
}
PICTURES = {  # sha256 of a part's PNG files, one after the other by number
    "train": "5ccb1e586318a54fe7322ad8802bc9240366c8d90895a01773f96e61436742a3",
    "test": "90f80d7b9868bfadacfbe1f0873d4ab0b2a71e12f31626bb8e557e28fbb5301c",
}


def load(part: str):
    """(pictures (N, 64, 64, 3) uint8 in 0..255, DataFrame of questions: `picture` a row of the pictures, `question`, `answer`).

    part: "train" (4,000 pictures, 38,575 questions) or "test" (1,000 and 9,673). The questions are lower case, are asked once a
    picture, and their answers are ANSWERS. Licence MIT. Raises ValueError for another part, DataError when the package is missing
    or damaged.
    """
    import pandas as pd

    if part not in FILES:
        raise ValueError(f"part must be train or test, not {part!r}")
    listed = FILES[part].path()
    files = [file.read_bytes() for file in sorted((listed.parent / "images").glob("*.png"), key=lambda file: int(file.stem))]
    if hashlib.sha256(b"".join(files)).hexdigest() != PICTURES[part]:
        raise DataError("the pictures of easy-vqa are incomplete or damaged; remove the package and install it again")
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    questions = pd.DataFrame(json.loads(listed.read_text()), columns=["question", "answer", "picture"])
    return pictures, questions[["picture", "question", "answer"]]


def facts(questions):
    """What a part's questions tell of each picture that they name both for: DataFrame, index `picture`, `colour` and `shape`.

    An answer that is a colour or a shape tells it, and so does a yes to "is there a red shape?" or a no to "is there not ...?"; the
    other answers are checked against what is told. Raises ValueError when two answers about one picture contradict each other.
    """
    import pandas as pd

    told, denied = {"colour": {}, "shape": {}}, []
    kind = {**dict.fromkeys(COLOURS, "colour"), **dict.fromkeys(SHAPES, "shape")}
    for picture, question, answer in questions.itertuples(index=False):
        words = re.findall(r"[a-z]+", question)
        if answer in kind:
            known, there = answer, True
        else:
            (known,) = (word for word in words if word in kind)
            there = (answer == "yes") != bool({"no", "not"} & set(words))
        if not there:
            denied.append((picture, known))
        elif told[kind[known]].setdefault(picture, known) != known:
            raise ValueError(f"questions: picture {picture} is told to be {told[kind[known]][picture]} and {known}")
    for picture, known in denied:
        if told[kind[known]].get(picture) == known:
            raise ValueError(f"questions: picture {picture} is told to be {known} and not to be it")
    return pd.DataFrame(told).dropna().sort_index().rename_axis("picture")
