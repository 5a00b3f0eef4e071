"""JupyterLab as a reader uses it: the real `make lab`, a notebook opened in a browser, all cells run, nothing committed touched."""

import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from shared.place import ROOT
from tests.browser import chromium

PAPER = "timeseries/early_warning_signals"  # numpy only, no data package
RUN = """async () => {
  const app = window.jupyterapp;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await app.commands.execute('notebook:clear-all-cell-outputs');
  await app.commands.execute('notebook:run-all-cells');
  return panel.content.model.toJSON().cells.flatMap((cell) => cell.outputs ?? []);
}"""


def git_status() -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def lab():
    """The address of a running `make lab`, with its token."""
    port, token = free_port(), secrets.token_hex(16)
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token={token} --LabApp.expose_app_in_browser=True"
    server = subprocess.Popen(
        ["make", "lab", f"LAB={options}"], cwd=ROOT, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(60):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
            break
        except OSError:
            assert server.poll() is None, "make lab ended"
            time.sleep(1)
    yield f"http://127.0.0.1:{port}/lab/tree/{PAPER}/{PAPER.split('/')[1]}.ipynb?token={token}&reset"
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def test_run_all_cells_in_a_browser(lab):
    before = git_status()
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(lab)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        outputs = page.evaluate(RUN)
        assert not [o for o in outputs if o["output_type"] == "error"]
        assert any("Placebo:" in "".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
        page.locator(".jp-RenderedMarkdown:visible", has_text="Placebo:").first.wait_for()
    assert git_status() == before
    assert (ROOT / "build" / "interactive" / PAPER / "ledger.json").exists()
