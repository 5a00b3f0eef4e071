"""A toy table of people, and one model of each kind on it, for the tests of the bench."""

import numpy as np
import pandas as pd

from replications.recourse.recourse_review import method
from shared.recourse.problem import Problem
from shared.recourse.table import encode


def make_table(n: int = 60, seed: int = 0):
    """Two numbers, an integer that only grows, a category, a number that is fixed."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.random(n), "debt": rng.random(n), "years": rng.integers(0, 9, n),
            "home": rng.choice(["own", "rent", "free"], n), "history": rng.random(n),
        }
    )  # fmt: skip
    worth = 2 * frame["income"] - frame["debt"] + frame["years"] / 8 + 0.2 * (frame["home"] == "own") + 0.3 * frame["history"]
    y = (worth > worth.median()).astype(int).to_numpy()
    return encode("toy", frame, y, {"income": "free", "debt": "free", "years": "up", "home": "free", "history": "fixed"})


def refused(problem: Problem, n: int = 5):
    """The n refused rows that are closest to a yes."""
    x = problem.table.X[~problem.accepts(problem.table.X)]
    return x[problem.model.score(x).argsort()[::-1][:n]]


def toy_problems():
    """One problem for each kind of model, on one table."""
    table = make_table()
    return {kind: Problem(table, method.fit(kind, table, 1, np.random.default_rng(1), epochs=60)[0]) for kind in method.KINDS}
