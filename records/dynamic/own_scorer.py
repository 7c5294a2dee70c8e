"""The scorer of our own records: the record's code, not the repository's, gives log-probabilities from its artifact.

The code is the readable twin of the counted file (train_gpt_readable.py), run as a module. Another test holds the two
against each other, since the twin is not what is counted. This file runs in the worker, where nothing of the
repository can be imported.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def sixteen_scorer(artifact: str) -> "SixteenScorer":
    """The scorer of the record that `artifact` lies in; computes in fp32 on the CPU."""
    code = _twin_of(Path(artifact).resolve().parent)
    packed = code.open_packed(artifact, code.Machine())
    restarts = getattr(packed.recipe.eval, "documents", "") == "restart"
    return SixteenScorer(packed.model, code.BOS_ID if restarts else -1)


class SixteenScorer:
    """Feeds the model without a window: its context is the whole stream, or the document where those are apart."""

    adaptive = False

    def __init__(self, model: Any, restart: int) -> None:
        """`restart` is the token before which the state is dropped; -1, which is none: it is carried on."""
        self._model, self._restart = model, restart
        self.isolates_documents = restart >= 0

    @torch.inference_mode()
    def log_probs(self, tokens: np.ndarray, state: Any) -> tuple[torch.Tensor, Any]:
        rows = []
        for piece in np.split(tokens, np.flatnonzero(tokens[1:] == self._restart) + 1):
            if piece[0] == self._restart:
                state = None
            logits, state = self._model.logits(torch.from_numpy(piece)[None], state)
            rows.append(torch.log_softmax(logits[0].float(), dim=-1))
        return torch.cat(rows), state


def _twin_of(folder: Path) -> Any:
    """The module of the readable twin in `folder`, run once."""
    twin = folder / "train_gpt_readable.py"
    if not twin.is_file():
        raise FileNotFoundError(f"{twin.name} must lie beside the artifact: the counted file has no names")
    return sys.modules.get(twin.stem) or _run_as_module(twin)


def _run_as_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
