"""A stranger's record folder around one of the scorers, with the score that the scorer really has."""

import json
import math
from pathlib import Path

import numpy as np
from dynamic import offenders

from records.dynamic.sandbox import SandboxLimits
from records.dynamic.texts import JudgedText, open_judged_text
from records.dynamic.verification import Verification
from records.dynamic.verify import VerifyOptions, verify_record

# More than the tiny validation split, so that the whole of it is scored as a stream.
TOKENS = 4096
CLEAN = ("Bigram", "IsolatedBigram", "Uniform", "Fixed")


def make_stranger(folder: Path, data: Path, scorer: str, **claims: object) -> Path:
    """The record of `scorer` in `folder`; `claims` are added to its submission.json, or taken away where None."""
    folder.mkdir(parents=True, exist_ok=True)
    text = open_judged_text(data)
    outside = folder.parent / "notes.txt"
    outside.write_text("what a model should know")
    facts = {
        "vocab": text.vocab_size,
        "bos": text.tokenizer.bos_id(),
        "train": str(data / text.train_names[0]),
        "val": str(text.shards[0]),
        "outside": str(outside),
    }
    (folder / "model.bin").write_text(json.dumps(facts))
    (folder / "train_gpt.py").write_text("raise SystemExit('nobody should run this')\n")
    honest = score_of(scorer, folder / "model.bin", text) if scorer in CLEAN else {"val_loss": 2.0, "val_bpb": 1.0}
    submission = {"name": scorer, "author": "A stranger", **honest, **claims}
    held = {name: value for name, value in submission.items() if value is not None}
    (folder / "submission.json").write_text(json.dumps(held))
    return folder


def score_of(scorer: str, artifact: Path, text: JudgedText) -> dict[str, float]:
    """Loss and bits per byte of a clean scorer, computed here in one go."""
    tokens = text.tokens.astype(np.int64)
    rows, _ = getattr(offenders, scorer)(artifact).log_probs(tokens[:-1], None)
    nats = -rows[np.arange(len(tokens) - 1), tokens[1:]].astype(np.float64).sum()
    bytes_of_text = sum(len(document.encode()) - document.startswith(" ") for document in text.texts())
    return {"val_loss": nats / text.num_targets, "val_bpb": nats / math.log(2) / bytes_of_text}


def verify_stranger(
    folder: Path, data: Path, scorer: str, seconds: float = 60, memory: int = 4 << 30, tokens: int = TOKENS
) -> Verification:
    """What the judge says of the record in `folder`."""
    limits = SandboxLimits(seconds, memory)
    return verify_record(folder, data, VerifyOptions(f"{offenders.__file__}:{scorer}", tokens, limits=limits))


def rules_of(verification: Verification) -> set[str]:
    """The rules that were broken, notes left out."""
    return {finding.rule for finding in verification.verdict.findings if finding.severity != "note"}
