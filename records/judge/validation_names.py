"""What the names in an expression say of validation text: what holds it, what measures it, what freezes an artifact."""

import ast
import re
from dataclasses import dataclass

from records.judge.source import children_of, last_name

VALIDATION_NAME = re.compile(
    r"^_?(val|valid|validation|eval)_?(tokens?|data|np|ids|files?|pattern|glob|paths?|loader|batch(es)?|stream|docs?|set"
    r"|shards?|x|y|inputs?|seqs?|sequences|chunks?|text|bin)(_np|_t|_all|_cpu|_gpu)?$",
    re.IGNORECASE,
)
_VALIDATION_FILE = re.compile(r"fineweb_val|(^|[/_*])val[_*][^/]*\.bin|validation\.bin", re.IGNORECASE)
MEASURE_NAME = re.compile(r"^_?(eval|score|valid|measure|log|print|timed|diagnos|perplexity|bpb|test)", re.IGNORECASE)
FREEZE_NAME = re.compile(
    r"serializ|export|quantiz|gptq|compress|torch\.save$|save_artifact|write_artifact|write_bytes", re.IGNORECASE
)
THAW_NAME = re.compile(r"deserializ|dequant|load_artifact|load_quantized|decompress", re.IGNORECASE)
_LOSS_NAME = re.compile(
    r"cross_entropy|nll|log_softmax|logsumexp|^forward|^model|_model$|^net$|^compiled|^logits|loss|nats|^score|ttt|^fwd",
    re.IGNORECASE,
)
_SIZE_NAMES = {"len", "numel", "size", "dim", "nelement", "print", "log", "isinstance", "count_nonzero"}


def is_validation(part: ast.AST) -> bool:
    """Whether one name, attribute or file name stands for validation text by itself."""
    if isinstance(part, ast.Name):
        return bool(VALIDATION_NAME.match(part.id))
    if isinstance(part, ast.Attribute):
        return bool(VALIDATION_NAME.match(part.attr))
    return isinstance(part, ast.Constant) and isinstance(part.value, str) and bool(_VALIDATION_FILE.search(part.value))


@dataclass(frozen=True)
class Contents:
    """What an expression is made of, as far as the flow asks."""

    names: frozenset[str]
    validation: bool
    losses: tuple[ast.Call, ...]  # calls that compute a loss of what they are given


_KEPT = "judge_contents"


def contents_of(node: ast.AST) -> Contents:
    """The contents of an expression, worked out once and kept on it."""
    held = node.__dict__.get(_KEPT)
    if held is None:
        parts = _flowing(node)
        names = frozenset(part.id for part in parts if isinstance(part, ast.Name))
        calls = (part for part in parts if isinstance(part, ast.Call))
        losses = tuple(call for call in calls if _LOSS_NAME.search(last_name(call.func)))
        held = node.__dict__[_KEPT] = Contents(names, any(map(is_validation, parts)), losses)
    return held


def _flowing(node: ast.AST) -> list[ast.AST]:
    """The nodes of an expression, without calls that measure or count what they are given, and without shapes."""
    parts, waiting = [], [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Call) and _ends_flow(last_name(part.func)):
            continue
        if isinstance(part, ast.Attribute) and part.attr in ("shape", "device", "dtype", "ndim"):
            continue
        parts.append(part)
        waiting.extend(children_of(part))
    return parts


def _ends_flow(name: str) -> bool:
    scores = name.startswith(("score", "log_softmax", "logsumexp"))
    return name in _SIZE_NAMES or bool(MEASURE_NAME.match(name)) and not scores
