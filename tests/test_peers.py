"""A peer is imported quietly, and a missing one is an error."""

import sys
import types
import warnings

import pytest
from tqdm import TqdmWarning

from shared import peers


def test_tqdm_s_warning_is_not_said_and_others_are(tmp_path, monkeypatch):
    lines = ["import warnings", "from tqdm import TqdmWarning", "warnings.warn('no widgets', TqdmWarning)", "warnings.warn('old')"]
    (tmp_path / "chatty_peer.py").write_text("\n".join([*lines, "answer = 42"]))
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = peers.load("chatty_peer")
    assert isinstance(loaded, types.ModuleType) and loaded.answer == 42
    assert [str(w.message) for w in said] == ["old"] and not any(w.category is TqdmWarning for w in said)
    del sys.modules["chatty_peer"]


def test_missing_peer():
    with pytest.raises(ModuleNotFoundError, match="no_such_peer"):
        peers.load("no_such_peer")
