"""ACIC 2016: the covariates of a data analysis competition, 4,802 people, and ten of its simulated studies on them.

From the package `causallib` (found, never imported). The covariates are real (from the Collaborative Perinatal Project, a
study of pregnancies, with their meaning taken away); treatments and outcomes are simulated, so the effects are known.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.data import PackageFile

LICENCE = "none stated for the data; the package that carries them is Apache-2.0"
CITATION = (
    "Dorie, Hill, Shalit, Scott & Cervone (2019), Automated versus do-it-yourself methods for causal inference, Statistical "
    "Science 34(1), 43-68"
)
SHA256 = {
    "x": "914d4d6c8dcea14f0268bb0c0558292746cbfbff7111c71434801e8ce48cdbdf",
    "zymu_1": "c77c7ba8cefeb350983d9e3918c444004b290e32f53ce028028701387898e175",
    "zymu_2": "faf5ad7c584d7c2dd6eed5120de8bb5de0a738b9fc343275d7d59a05efbf8ada",
    "zymu_3": "394974df8181524c3a5f0166cae961adc7e1311bf05db2050c1668879bf8e130",
    "zymu_4": "478153982835c31ca5442df3dba9020a9b8b04cad2f87d5a2beae56638cdd9e9",
    "zymu_5": "96b9252370b5f72da72a643b81a3233337ff274f4abbe74837e152f969f9bb87",
    "zymu_6": "73cac08e9444b336417ae99696f2156b96ee096fd195a1ec118fc315571c608e",
    "zymu_7": "b456f0f230fdb6b503acf691ed4efaaf59806d7a23f6ac3f7b47a6b6588292c4",
    "zymu_8": "3d1d6a5646efaba235f9ed0c41c80644050d88764a1728e9411e1000266560b4",
    "zymu_9": "0c3d16e75faf07b8b63c991522270f481c1570f64ebc3c24671e9805612f933e",
    "zymu_10": "81fe53b05fce5cf889a5884179dff485e67e9caeabc9fc1cb0da1da39c4dba3b",
}
CATEGORICAL = ("x_2", "x_21", "x_24")  # letters; left out by most users of the covariates


def file(name: str) -> PackageFile:
    """The file `x` of covariates, or `zymu_1` to `zymu_10` of the studies."""
    suffix = f"acic_challenge_2016/{name}.csv"
    return PackageFile(distribution="causallib", suffix=suffix, sha256=SHA256[name], licence=LICENCE, citation=CITATION)


class Study(NamedTuple):
    """One simulated study on the 4,802 people, all arrays (4802,), outcomes without unit."""

    w: np.ndarray  # treated, 0 or 1
    y: np.ndarray  # the outcome under the treatment that was given
    mu0: np.ndarray  # expected outcome without treatment
    mu1: np.ndarray  # and with it


def load() -> pd.DataFrame:
    """Covariates (4802, 55), numbers in their own unknown units, without the three columns of letters. Raises DataError."""
    return pd.read_csv(file("x").path()).drop(columns=list(CATEGORICAL)).astype(float)


def load_study(number: int) -> Study:
    """Study 1 to 10: one draw each of ten of the competition's 77 processes, as the package numbers them. Raises DataError."""
    table = pd.read_csv(file(f"zymu_{number}").path())
    w = table["z"].to_numpy(float)
    y = np.where(w == 1, table["y1"], table["y0"])
    return Study(w, y, table["mu0"].to_numpy(float), table["mu1"].to_numpy(float))
