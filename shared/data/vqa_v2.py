"""VQA v2 (Goyal et al. 2017): open questions about photographs of COCO; files of visualqa.org, CC BY 4.0, not in any package."""

import json
from pathlib import Path

from shared.data import from_mirror

CITATION = "Goyal, Khot, Summers-Stay, Batra & Parikh (2017), Making the V in VQA Matter, arXiv:1612.00837"


def files(part: str) -> tuple[Path, Path]:
    """The files of questions and of annotations of "train" or "val", in the folder vqa_v2 of $REPLICATIONS_DATA; else DataError."""
    names = f"v2_OpenEnded_mscoco_{part}2014_questions.json", f"v2_mscoco_{part}2014_annotations.json"
    return tuple(from_mirror("vqa_v2", name) for name in names)


def load(questions: Path, annotations: Path):
    """DataFrame of `picture` (COCO's number), `question`, `answer` (the one most people gave), one row a question.

    Raises ValueError when a question has no annotation, or an annotation no question or another picture.
    """
    import pandas as pd

    asked = pd.DataFrame(json.loads(questions.read_text(encoding="utf-8"))["questions"])
    answered = pd.DataFrame(json.loads(annotations.read_text(encoding="utf-8"))["annotations"])
    both = asked.merge(answered, how="outer", on=["question_id", "image_id"], indicator=True, validate="one_to_one")
    if not both["_merge"].eq("both").all():
        raise ValueError(f"annotations: {both['_merge'].ne('both').sum()} rows fit no row of {questions.name}")
    names = {"image_id": "picture", "multiple_choice_answer": "answer"}
    return both.rename(columns=names)[["picture", "question", "answer"]]
