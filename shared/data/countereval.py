"""CounterEval: 30 counterfactual explanations rated by 206 people on eight scales, from the Hugging Face hub (CC BY 4.0)."""

from pathlib import Path

import pandas as pd

from shared.data import DataError

HUB = "anitera/CounterEval"
LICENCE = "CC BY 4.0"
CITATION = "Domnich et al. (2025) Towards Unifying Evaluation of Counterfactual Explanations, AAAI; doi 10.57967/hf/3824"
RATINGS, QUESTIONS = "cleaned_cf_dataset.csv", "survey_question.csv"  # without the ten raters that the authors' checks removed
ORDER = (
    "satisfaction", "feasibility", "consistency", "completeness", "trust", "understandability", "fairness", "complexity",
)  # fmt: skip


def folder(source: str) -> Path:
    """`source` where it is a folder, else the hub's data set of that name, downloaded. Raises DataError when neither is there."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, repo_type="dataset", allow_patterns=[RATINGS, QUESTIONS]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise DataError(
            f"{source!r} is no folder and cannot be downloaded from the hub ({type(error).__name__}): check the network, or put "
            f"{RATINGS} and {QUESTIONS} of {HUB} into a folder and name it"
        ) from error


def load(source: str = HUB) -> pd.DataFrame:
    """One row per item, scenario after scenario and scale after scale: `scenario` (0, 1, ...), `scale`, `text`, `mean` over raters.

    Ratings are 1 to 6, on the scale complexity -2 to 2; gaps are left out of the mean. The scales are in the authors' order.
    Raises DataError when the files are missing or of another form.
    """
    home = folder(source)
    if missing := [name for name in (RATINGS, QUESTIONS) if not (home / name).exists()]:
        raise DataError(f"{home} has no {' and no '.join(missing)}: copy it from the data set {HUB} on the hub")
    ratings, questions = pd.read_csv(home / RATINGS), pd.read_csv(home / QUESTIONS)
    raters = [name for name in ratings.columns if name.isdigit()]  # one column per participant, named by number
    if not raters or "Question" not in questions or len(ratings) != len(ORDER) * len(questions):
        raise DataError(
            f"{home}: {RATINGS} needs a column per rater, named by a number, and {len(ORDER)} rows for each row of {QUESTIONS}, "
            f"whose text stands in the column Question; found {len(raters)} raters and {len(ratings)} rows for {len(questions)}"
        )
    rows = pd.DataFrame({"scenario": range(len(questions)), "text": questions["Question"].str.split().str.join(" ")})
    items = rows.merge(pd.DataFrame({"scale": ORDER}), how="cross")
    return items[["scenario", "scale", "text"]].assign(mean=ratings[raters].mean(axis=1))
