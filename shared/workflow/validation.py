"""Do the outputs of a notebook that ran again agree with those committed?

What is compared is what should be stable on another processor. A ledger measure passes when its new mean lies inside
the committed interval and the verdict is the same; an exact measure must be equal. Other numbers pass within the
cell's tolerance (relative, 1e-2 unless its metadata says otherwise) or one unit in the last printed place; the text
around them must be equal. Figures pass by `figurediff`. Stderr is not compared.
"""

import base64
import re

from shared.ledger import MIME
from shared.workflow import figurediff

TOLERANCE = 1e-2
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w])")


def incomplete(notebook) -> str:
    """Why a notebook cannot serve as a reference (not executed, out of order, no outputs), or empty."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    counts = [c.execution_count for c in cells]
    if counts != list(range(1, len(cells) + 1)):
        return f"its cells were not executed once, from top to bottom (execution counts {counts})"
    if not any(MIME in o.get("data", {}) for c in cells for o in c.outputs):
        return "it has no verdicts among its outputs"
    return ""


def differences(reference: list, new: list, tolerance: float = TOLERANCE) -> list[str]:
    """What differs between a cell's committed and new outputs, one line each; empty when they agree."""
    old, now = _comparable(reference), _comparable(new)
    kinds = [[kind for kind, _ in outputs] for outputs in (old, now)]
    if kinds[0] != kinds[1]:
        return [f"outputs are {kinds[1]} instead of {kinds[0]}"]
    found = []
    for (kind, one), (_, two) in zip(old, now, strict=True):
        if kind == MIME:
            found += _ledger(one, two)
        elif kind == "image/png":
            problem = figurediff.difference(base64.b64decode(one), base64.b64decode(two))
            found += [f"figure: {problem}"] if problem else []
        else:
            found += _text(one, two, tolerance)
    return found


def _comparable(outputs: list) -> list[tuple[str, object]]:
    """(kind, content) of each output but stderr, richest form first; streams of one name are joined."""
    result = []
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                continue
            text = _joined(output["text"])
            if result and result[-1][0] == "stdout":
                text = result.pop()[1] + text
            result.append(("stdout", text))
        elif output["output_type"] == "error":
            result.append(("error", f"{output['ename']}: {output['evalue']}"))
        else:
            data = output["data"]
            kind = next((k for k in (MIME, "image/png", "text/html", "text/markdown") if k in data), "text/plain")
            result.append((kind, data[kind] if kind == MIME else _joined(data.get(kind, ""))))
    return result


def _joined(text) -> str:
    return text if isinstance(text, str) else "".join(text)


def _ledger(reference: dict, new: dict) -> list[str]:
    if set(reference) != set(new):
        return [f"claims are {sorted(new)} instead of {sorted(reference)}"]
    found = []
    for claim, old in reference.items():
        now = new[claim]
        if now["verdict"] != old["verdict"]:
            found.append(f"{claim}: verdict {now['verdict']} instead of {old['verdict']}")
        for part in ("effect", "placebo"):
            a, b = old[part], now[part]
            if a["n"] != b["n"]:
                found.append(f"{claim}, {part}: {b['n']} repeats instead of {a['n']}")
            if a["interval"] == "exact":
                slack = 1e-9 * max(abs(a["low"]), abs(a["high"]))  # exact up to the rounding of a sum
                if abs(a["low"] - b["low"]) > slack or abs(a["high"] - b["high"]) > slack:
                    found.append(f"{claim}, {part}: exact range [{b['low']}, {b['high']}] instead of [{a['low']}, {a['high']}]")
            elif not a["low"] <= b["mean"] <= a["high"]:
                found.append(
                    f"{claim}, {part}: mean {b['mean']:.4g} outside the accepted interval [{a['low']:.4g}, {a['high']:.4g}]"
                )
    return found


def _text(reference: str, new: str, tolerance: float) -> list[str]:
    words = [re.sub(r"\s+", " ", _NUMBER.sub("#", text)).strip() for text in (reference, new)]
    if words[0] != words[1]:
        return [f"text: {words[1][:300]!r} instead of {words[0][:300]!r}"]
    pairs = zip(_NUMBER.findall(reference), _NUMBER.findall(new), strict=True)
    return [f"number {b} instead of {a} (tolerance {tolerance:g})" for a, b in pairs if not _close(a, b, tolerance)]


def _close(a: str, b: str, tolerance: float) -> bool:
    x, y = (float(n.replace("−", "-")) for n in (a, b))
    decimals = len(a.lower().partition("e")[0].partition(".")[2])
    exponent = int(a.lower().partition("e")[2] or 0)
    last_place = 10.0 ** (exponent - decimals) if "." in a or "e" in a.lower() else 0.0  # an integer is a count: exact
    return abs(x - y) <= max(tolerance * abs(x), 1.001 * last_place)
