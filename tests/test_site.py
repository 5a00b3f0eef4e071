"""The site as its readers meet it: built from what is committed, opened from a plain folder in a real browser."""

import itertools
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe

from shared import record
from shared.place import ROOT
from shared.workflow import results, site
from tests.browser import chromium

PAPERS = list(results.all_accepted())
CLAIM = {"id": "c", "says": "s", "where": "w", "source": "paper", "kind": "order", "effect": "e", "placebo": "p"}


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the site, built once."""
    ran = subprocess.run([sys.executable, "-m", "shared.workflow.site"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ROOT / "build" / "site" / "html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser):
    """A page that remembers what went wrong: errors on the console, requests that failed or left the folder."""
    shown = browser.new_page()
    shown.wrong = []
    shown.on("console", lambda m: shown.wrong.append(m.text) if m.type == "error" else None)
    shown.on("pageerror", lambda error: shown.wrong.append(str(error)))
    shown.on("requestfailed", lambda r: shown.wrong.append(f"failed: {r.url}"))
    shown.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else shown.wrong.append(f"outside: {r.url}")
    )
    yield shown
    shown.close()


def pages_of(built: Path) -> list[Path]:
    """The pages, without the templates that the theme leaves among its files."""
    return sorted(path for path in built.rglob("*.html") if "_static" not in path.parts)


class Links(HTMLParser):
    """What a page points to, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.resources, self.ids, self.images = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and given.get("href"):
            self.targets.append(given["href"])
        if tag == "img":
            self.images.append(given)
        source = given.get("src") if tag in ("img", "script", "iframe") else given.get("href") if tag == "link" else None
        if source:
            self.resources.append(source)


def test_every_link_and_every_file_is_there(built):
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in pages_of(built)}
    for path, links in pages.items():
        for target in [*links.targets, *links.resources]:
            address, fragment = urldefrag(target)
            if urlparse(address).scheme:
                assert target not in links.resources or address.startswith("data:"), f"{path.name} loads {target}"
                continue
            meant = (path.parent / unquote(urlparse(address).path)).resolve() if address else path
            assert meant.exists(), f"{path.relative_to(built)}: {target} leads nowhere"
            if fragment and target in links.targets and meant in pages:
                assert fragment in pages[meant].ids, f"{path.relative_to(built)}: {target} has no such anchor"


def test_every_picture_has_a_text(built):
    for path in pages_of(built):
        for image in Links(path.read_text(encoding="utf-8")).images:
            assert image.get("alt"), f"{path.relative_to(built)}: {image.get('src', '')[:80]} has no alt text"


def test_a_page_for_each_paper_says_it_all(built):
    for paper in PAPERS:
        text = (built / "papers" / f"{paper}.html").read_text(encoding="utf-8")
        known = site.read(paper)
        for claim in known.claims:
            assert f'id="{site.anchor(claim.id)}"' in text
        for figure in site.figures(paper):
            assert f"{paper}/{figure['figure']}.png" in text
        assert "what made this figure" in text and "method.py" in text


def test_no_page_has_an_error_on_its_console_or_asks_the_outside(built, page):
    for path in pages_of(built):
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        assert page.wrong == [], path.name


def test_equations_are_rendered(built, page):
    with_equations = 0
    for paper in PAPERS:
        page.goto((built / "papers" / f"{paper}.html").as_uri())
        written = page.locator(".math").count()
        if written:
            page.wait_for_selector("mjx-container")
            page.wait_for_function("document.querySelectorAll('mjx-container').length >= document.querySelectorAll('.math').length")
            assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
            with_equations += 1
    assert with_equations >= 3


def test_the_scoreboard_sorts_and_filters(built, page):
    page.goto((built / "index.html").as_uri())
    heads = page.locator("#all-papers th").all_text_contents()
    for name, numeric in (("paper", False), ("seconds", True)):
        column = heads.index(name)
        cells = page.locator(f"#all-papers tbody tr td:nth-child({column + 1})")
        for direction in ("ascending", "descending"):
            page.locator("#all-papers th button", has_text=name).click()
            assert page.locator("#all-papers th").nth(column).get_attribute("aria-sort") == direction
            values = [float(v) if numeric else v.lower() for v in cells.all_text_contents()]
            assert values == sorted(values, reverse=direction == "descending")
    family = PAPERS[0].split("/")[0]
    page.get_by_label("family").select_option(family)
    wanted = sum(paper.startswith(f"{family}/") for paper in PAPERS)
    assert page.locator("#all-papers tbody tr:visible").count() == wanted == page.locator(".claims .paper:visible").count()
    assert page.locator("#shown").text_content() == f"{wanted} of {len(PAPERS)} papers"
    page.get_by_label("family").select_option("")
    page.get_by_label("verdict").select_option("fails")
    with_failures = sum(any(c["verdict"] == "fails" for c in results.accepted(p)["claims"].values()) for p in PAPERS)
    assert page.locator("#all-papers tbody tr:visible").count() == with_failures


def test_search_finds_a_paper_by_a_word_of_its_question(built, page):
    page.goto((built / "search.html").as_uri() + "?q=lake+collapsed")
    page.wait_for_selector("#search-results li")
    assert "early_warning_signals" in page.locator("#search-results li a").first.get_attribute("href")


def test_nothing_serious_for_readers_with_assistive_technology(built, page):
    for name in ("index.html", "gallery.html", "verdicts.html", f"papers/{PAPERS[0]}.html"):
        page.goto((built / name).as_uri())
        page.wait_for_load_state("networkidle")
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not found, [(name, v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found]


@pytest.mark.parametrize("rule", [{"above": 0.0}, {"above": -2.0}, {"below": 0.5}, {"within": [-1.0, 3.0]}])
def test_right_of_the_middle_is_the_claimed_side(rule):
    claim = record.Claim(**CLAIM, **rule)
    for value in (-3.0, -1.5, -0.5, 0.2, 1.0, 2.9, 7.0):
        on_claimed_side = claim.judge(value, value) == "holds"
        assert (site.percent(site.place_on_axis(claim, value, site.unit_of(claim, [1.0, 2.0]))) > 50) == on_claimed_side


def test_the_axis_keeps_order_and_ends():
    places = [site.percent(x) for x in (-1e9, -100, -3, 0, 0.5, 2, 100, 1e9)]
    assert places[0] == places[1] == 0 and places[3] == 50 and places[-1] == places[-2] == 100
    assert all(a <= b for a, b in itertools.pairwise(places))
