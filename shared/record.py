"""The record of a replication: `paper.yaml`, read and validated."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Interval = Literal["t", "bootstrap", "exact"]


class RecordError(ValueError):
    """A `paper.yaml` that cannot be used; the message names the file, the key and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(_Strict):
    """One checkable sentence, table cell or figure of a paper, and the rule that judges it."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    says: str = Field(min_length=1)  # the paper's sentence, in our words
    where: str = Field(min_length=1)  # where the paper says so
    paper: float | str | None = None  # the paper's number, only where there is a source for it
    source: Literal["abstract", "official repository", "paper", "ours"]  # ours: a question that the paper does not ask
    kind: Literal["order", "value", "trend"]
    effect: str = Field(min_length=1)  # what one number of the sample is, with its unit
    repeat: str = "seed"  # what one independent repeat is
    interval: Interval = "t"
    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None
    placebo: str = Field(min_length=1)  # what was taken out
    placebo_interval: Interval | None = None  # where it differs from `interval`

    @model_validator(mode="after")
    def _one_rule(self):
        given = [rule for rule in ("above", "below", "within") if getattr(self, rule) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of above, below, within (found: {', '.join(given) or 'none'})")
        if self.within and self.within[0] >= self.within[1]:
            raise ValueError("within: [low, high] needs low < high")
        return self

    def judge(self, low: float, high: float) -> str:
        """`holds`, `fails` or `undecided` for an interval [low, high] in the effect's unit."""
        floor, ceiling = self.within or (self.above, self.below)
        floor = float("-inf") if floor is None else floor
        ceiling = float("inf") if ceiling is None else ceiling
        inside = (low >= floor and high <= ceiling) if self.within else (low > floor and high < ceiling)
        if inside:
            return "holds"
        return "fails" if high <= floor or low >= ceiling else "undecided"

    @property
    def rule(self) -> str:
        """The rule in words, for tables: `> 0`, `< 0.5`, `in [-0.1, 0.1]`."""
        if self.within:
            return f"in [{self.within[0]:g}, {self.within[1]:g}]"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"


class Deviation(_Strict):
    """One difference from the paper: what, why, and what it changes."""

    what: str
    why: str
    matters: str


class Paper(_Strict):
    """A paper and what of it is replicated. Fields as in DESIGN: see `replications/*/*/paper.yaml`."""

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    code: str | None = None
    question: str
    data: Literal["real", "simulated", "both"] | None = None  # what the laptop run measures on
    packages: tuple[str, ...] = ()  # data packages, pinned in requirements-data.txt
    claims: tuple[Claim, ...]
    deviations: tuple[Deviation, ...] = ()
    parameters: dict[Literal["paper"], dict] = {}
    next: str = ""

    @model_validator(mode="after")
    def _unique_ids(self):
        ids = [claim.id for claim in self.claims]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"claims: id used twice: {', '.join(twice)}")
        return self

    def claim(self, claim_id: str) -> Claim:
        """The claim with this id. Raises KeyError naming the declared ids."""
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        raise KeyError(f"{claim_id!r} is not declared in paper.yaml; declared: {', '.join(c.id for c in self.claims)}")


def read(path: str | Path) -> Paper:
    """Read and validate a `paper.yaml`. Raises RecordError naming the file and every bad key."""
    path = Path(path)
    if not path.exists():
        raise RecordError(f"{path}: no such file; a replication needs one (make new SLUG=<family>/<slug> writes a scaffold)")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a mapping with title, authors, claims, ...")
    try:
        return Paper.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_key(problem['loc'], content)}: {_what(problem)}" for problem in error.errors()]
        raise RecordError(f"{path}:\n" + "\n".join(lines)) from error


def _key(location: tuple, content: dict) -> str:
    """`claims.tuebingen_accuracy.abvoe` rather than `claims.0.abvoe`."""
    names = [str(part) for part in location]
    if len(location) > 1 and location[0] == "claims":
        claim = content["claims"][location[1]]
        names[1] = str(claim.get("id", location[1])) if isinstance(claim, dict) else names[1]
    return ".".join(names) or "(file)"


def _what(problem: dict) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key; remove it or mend its spelling"
    return problem["msg"].removeprefix("Value error, ")
