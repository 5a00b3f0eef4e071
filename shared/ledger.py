"""The claim ledger: what a paper claims, what we measured, what the placebo gave, and the verdict.

A claim `holds` when the whole 95 % interval of its effect lies on the claimed side, `fails` when it lies on the
other, and is `undecided` when it straddles. It is `void` when the placebo, the same measurement with the paper's
mechanism taken out, holds too: then the measurement tells nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared import place

if TYPE_CHECKING:
    from shared import record

MIME = "application/vnd.replications.ledger+json"  # what validation compares instead of the rendered text
LEVEL = 0.95
LEAST = {"t": 3, "bootstrap": 20, "exact": 1}  # repeats below which an interval is not to be trusted
RESAMPLES = 10_000
MARKS = {"holds": "✓ holds", "fails": "✗ fails", "undecided": "? undecided", "void": "∅ void"}


class LedgerError(ValueError):
    """A measurement that cannot enter the ledger; the message names the claim and the remedy."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval [low, high], all in the effect's unit, and the sample behind it."""

    mean: float
    low: float
    high: float
    n: int
    interval: str
    sample: tuple[float, ...]

    def __str__(self) -> str:
        return f"{_number(self.mean)} [{_number(self.low)}, {_number(self.high)}]"


def estimate(sample, interval: str = "t") -> Estimate:
    """The mean of independent repeats with its 95 % interval.

    sample: shape (n,), one effect per repeat, finite. interval: `t`, Student's interval over seeds (n >= 3);
    `bootstrap`, the percentile bootstrap over items (n >= 20), widened for small n as in Hesterberg (2015,
    "What teachers should know about the bootstrap", section 4.3); `exact`, the range [min, max] of a measure
    that is not uncertain, such as a count that must match.
    Raises ValueError for too few repeats, for NaN or infinity, and for a constant sample unless `exact`.
    """
    values = np.asarray(sample, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"expected one number per repeat, shape (n,), not shape {values.shape}")
    if len(values) < LEAST[interval]:
        raise ValueError(f"{len(values)} repeats are too few for interval {interval!r}: at least {LEAST[interval]}")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} repeats are NaN or infinite")
    mean = float(values.mean())
    if interval == "exact":
        low, high = float(values.min()), float(values.max())
    elif np.ptp(values) == 0:
        raise ValueError(
            f"all {len(values)} repeats are {_number(mean)}: identical numbers are an error, not a certainty "
            "(if the measure cannot vary, declare the interval `exact`)"
        )
    else:
        low, high = _t_interval(values) if interval == "t" else _bootstrap_interval(values)
    return Estimate(mean, low, high, len(values), interval, tuple(float(f"{v:.6g}") for v in values))


def _t_quantile(n: int) -> float:
    from scipy.special import stdtrit  # slow to import, and needed only once something is measured

    return float(stdtrit(n - 1, 0.5 + LEVEL / 2))


def _t_interval(values: np.ndarray) -> tuple[float, float]:
    half = _t_quantile(len(values)) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    from scipy.special import ndtr

    n = len(values)
    # tail probability Phi(-sqrt(n / (n - 1)) t) in place of 0.025: corrects the narrowness at small n
    tail = float(ndtr(-np.sqrt(n / (n - 1)) * _t_quantile(n)))
    rng = np.random.default_rng(0)  # fixed: the interval is a function of the sample
    chunk = max(1, 2_000_000 // n)
    means = [values[rng.integers(n, size=(min(chunk, RESAMPLES - start), n))].mean(axis=1) for start in range(0, RESAMPLES, chunk)]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def verdict(claim: record.Claim, effect: Estimate, placebo: Estimate) -> str:
    """`void` when the placebo holds, else what the effect's interval says: `holds`, `fails` or `undecided`."""
    if claim.judge(placebo.low, placebo.high) == "holds":
        return "void"
    return claim.judge(effect.low, effect.high)


class Rendered:
    """Markdown for a notebook, with optional data under a MIME type of its own."""

    def __init__(self, markdown: str, data: dict | None = None):
        self.markdown, self.data = markdown, data

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"text/markdown": self.markdown, "text/plain": self.markdown}
        return bundle | ({MIME: self.data} if self.data is not None else {})


class Ledger(Rendered):
    """The claims of one paper and what was measured for each. Shown in a notebook, it is the table of claims."""

    def __init__(self, paper: record.Paper, out: Path):
        super().__init__(_claims_table(paper))
        self.paper, self.path = paper, Path(out) / "ledger.json"
        self._measured: dict[str, tuple[Estimate, Estimate]] = {}

    @classmethod
    def here(cls) -> Ledger:
        """The ledger of the running notebook, from the `paper.yaml` in its folder. Raises RecordError."""
        from shared import record  # pydantic is slow to import, and needed only once a paper.yaml is read

        return cls(record.read(place.here() / "paper.yaml"), place.out())

    def measure(self, claim_id: str, *, effect, placebo) -> None:
        """Enter one claim's effects and placebo effects, each of shape (n,): one per repeat, in the effect's unit.

        Raises LedgerError for an undeclared claim, and for a sample that `estimate` refuses.
        """
        try:
            claim = self.paper.claim(claim_id)
        except KeyError as error:
            raise LedgerError(error.args[0]) from None
        intervals = {"effect": claim.interval, "placebo": claim.placebo_interval or claim.interval}
        estimates = []
        for name, sample in (("effect", effect), ("placebo", placebo)):
            try:
                estimates.append(estimate(sample, intervals[name]))
            except ValueError as error:
                raise LedgerError(f"{claim_id}, {name}: {error}") from None
        self._measured[claim_id] = tuple(estimates)

    def verdicts(self) -> Rendered:
        """Judge every claim, write `ledger.json` and render a sentence for each.

        Raises LedgerError naming the declared claims that were never measured.
        """
        missing = [claim.id for claim in self.paper.claims if claim.id not in self._measured]
        if missing:
            raise LedgerError(f"declared in paper.yaml but never measured: {', '.join(missing)}")
        claims = {c.id: self._entry(c) for c in self.paper.claims}
        content = {"title": self.paper.title, "claims": claims, "provenance": place.provenance()}
        place.write_whole(self.path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return Rendered("\n\n".join(self._sentence(c) for c in self.paper.claims), claims)

    def deviations(self) -> Rendered:
        """What differs from the paper and what we would try next, as a table and a sentence."""
        rows = [f"| {d.what} | {d.why} | {d.matters} |" for d in self.paper.deviations]
        table = "\n".join(["| what differs | why | what it changes |", "|---|---|---|", *rows])
        return Rendered(table + (f"\n\n**Next.** {self.paper.next}" if self.paper.next else ""))

    def _entry(self, claim: record.Claim) -> dict:
        effect, placebo = self._measured[claim.id]
        return {
            "says": claim.says,
            "rule": f"{claim.effect} {claim.rule}",
            "verdict": verdict(claim, effect, placebo),
            "effect": asdict(effect),
            "placebo": asdict(placebo),
        }

    def _sentence(self, claim: record.Claim) -> str:
        effect, placebo = self._measured[claim.id]
        kind = {"t": "95 % t-interval", "bootstrap": "95 % bootstrap interval", "exact": "exact, range"}[effect.interval]
        paper = f" The paper's number: {claim.paper} ({claim.source})." if claim.paper is not None else ""
        return (
            f"**{MARKS[verdict(claim, effect, placebo)]}** · `{claim.id}` · {claim.says} ({claim.where})  \n"
            f"Measured: {claim.effect} = **{effect}** ({kind}, {effect.n} {_plural(claim.repeat, effect.n)}); "
            f"it holds when {claim.rule}.  \n"
            f"Placebo: {placebo} ({placebo.n} {_plural(claim.repeat, placebo.n)}). {claim.placebo}{paper}"
        )


def _claims_table(paper: record.Paper) -> str:
    rows = [
        f"| `{c.id}` | {c.says} | {c.where} | {c.effect} {c.rule} | {c.placebo} | {'' if c.paper is None else c.paper} |"
        for c in paper.claims
    ]
    head = "| claim | the paper says | where | holds when | placebo, which must not pass | paper's number |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"
