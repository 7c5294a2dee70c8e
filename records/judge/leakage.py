"""Code that lets the score see what it must not: the target in a cache's key, validation text before the artifact."""

import ast
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.flow import FlowIndex, FunctionFlow, backwards
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import (
    SourceUnit,
    dotted_name,
    last_name,
    nodes_of,
    own_nodes,
    parse_source,
    python_text,
    words_of,
)
from records.judge.validation_names import FREEZE_NAME, MEASURE_NAME, THAW_NAME, VALIDATION_NAME, is_validation

_CALIBRATION = re.compile(r"calib|hessian|gptq|awq|activation_stat", re.IGNORECASE)
_WARM = re.compile(r"warm", re.IGNORECASE)
_STORES = re.compile(
    r"compress$|^torch\.save$|tobytes$|^pickle\.dumps?$|write_bytes$|prefix_blob|pack_prefix", re.IGNORECASE
)
_WHY_NAMES = "told from names: what the variables hold was not run"


def judge_validation_use(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Validation text in calibration, in training before the artifact is written, in warm-up, in the artifact."""
    for flow in flows.flows:
        for call in _calls(flow):
            if _CALIBRATION.search(last_name(call.func)) and not MEASURE_NAME.match(last_name(call.func)):
                if flow.takes(call):
                    said = f"{last_name(call.func)} is given validation text"
                    yield found("validation-calibration", said, flow.unit.at(call), None, "high", _WHY_NAMES)
            elif _STORES.search(dotted_name(call.func)) and _stores_text(flow, call):
                said = f"{last_name(call.func)} stores validation text"
                yield found("validation-in-artifact", said, flow.unit.at(call), None, "medium", _WHY_NAMES)
        yield from _inside_calibration(flow)
        yield from _before_freeze(flow, flows)
        yield from _as_training(flow)


def judge_warmup(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Warm-up of compiled code with optimiser steps on validation text."""
    for flow in flows.flows:
        if id(flow) in flows.trainers and _WARM.search(flow.name):
            said = f"{flow.name} takes optimiser steps on validation text"
            yield found("validation-warmup", said, flow.unit.at(flow.node), None, "medium", _WHY_NAMES)


def judge_documents(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """A gate that mixes in the previous token, without a mask where documents are packed."""
    packed = any(
        unit.words & {"cu_seqlens", "cu_seqlens_q", "varlen", "flash_attn_varlen_func"} for unit in record.units
    )
    for unit in record.units if packed else ():
        for node in unit.nodes:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and _smears_blindly(node):
                said = f"{node.name} mixes in the previous token and never looks at document starts"
                why = "documents are packed; the mask may be applied by the caller"
                yield found("document-leak", said, unit.at(node), None, "medium", why)


def _smears_blindly(node: ast.ClassDef | ast.FunctionDef) -> bool:
    masked = any(re.search(r"bos|doc|boundary|mask|cu_seq", word, re.IGNORECASE) for word in words_of(node))
    return "smear" in node.name.lower() and _shifts(node) and not masked


def judge_glob(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """The pattern of validation shards matches the byte side-car too."""
    for unit in record.units:
        strings = [node for node in unit.strings if "fineweb_val_*" in node.value]
        sidecar = any("val_bytes" in node.value for node in unit.strings)
        if strings and sidecar and not re.search(r"not in|!=|_bytes_[\"'] ?(not )?in|exclude", unit.text):
            said = "fineweb_val_* matches fineweb_val_bytes_* as well"
            yield found(
                "validation-glob", said, unit.at(strings[0]), None, "low", "the files may be filtered elsewhere"
            )


def judge_lossy_text(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Text folded or normalised before its bytes are counted, in the script or in what prepared the data."""
    units = [*record.units, *_preparation(record)]
    for unit in units:
        inverse = any(re.search(r"inverse|restore|decode_case|undo|detransform", word) for word in unit.words)
        for function in unit.functions:
            folds = next((node for node in own_nodes(function) if _folds(node)), None)
            if folds is None or not any(map(_ENCODES.search, words_of(function))):
                continue
            why = (
                "an inverse is there; whether it is exact was not run" if inverse else "where the text goes was not run"
            )
            said = f"{function.name} changes the text before it is encoded"
            yield found("lossy-text", said, unit.at(folds), "note" if inverse else None, "low", why)


_ENCODES = re.compile(r"^encode|^EncodeAs|tokeniz|sentencepiece|^sp$|write_shard|normaliz", re.IGNORECASE)
_TEXT_NAME = re.compile(r"^(text|doc|document|line|sample|content|raw|body)$")


def _folds(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = dotted_name(node.func)
    receiver, _, method = name.rpartition(".")
    return name == "unicodedata.normalize" or method in ("lower", "casefold") and bool(_TEXT_NAME.match(receiver))


def _preparation(record: JudgedRecord) -> list[SourceUnit]:
    """The trees of the Python files that the script does not use, where they parse."""
    units = []
    for name, file in list(record.others.items())[:20]:
        if not name.endswith("_readable.py"):
            try:
                units.append(parse_source(python_text(file.data or b""), name))
            except SyntaxError:
                continue
    return units


def _calls(flow: FunctionFlow) -> list[ast.Call]:
    return [node for node in own_nodes(flow.node) if isinstance(node, ast.Call)]


def _stores_text(flow: FunctionFlow, call: ast.Call) -> bool:
    """Whether what is stored is validation text itself, not a model or a loss."""
    parts = [*call.args, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
    return any(flow.holds(part) and not flow.is_loss(part) for part in parts)


def _inside_calibration(flow: FunctionFlow) -> Iterator[Finding]:
    """A calibration that reads validation text by itself."""
    if not _CALIBRATION.search(flow.name) or MEASURE_NAME.match(flow.name) or flow.given:
        return
    for node in own_nodes(flow.node):
        if isinstance(node, (ast.Name, ast.Attribute, ast.Constant)) and is_validation(node):
            said = f"{flow.name} reads validation text"
            yield found("validation-calibration", said, flow.unit.at(node), None, "high", _WHY_NAMES)
            return


def _before_freeze(flow: FunctionFlow, flows: FlowIndex) -> Iterator[Finding]:
    """Training on validation text in the lines before the artifact is written."""
    calls = sorted(_calls(flow), key=lambda call: (call.lineno, call.col_offset))
    training = [call for call in calls if flows.trains(call, flow) and not _WARM.search(last_name(call.func))]
    training += [] if _WARM.search(flow.name) else backwards(flow)
    for call in training:
        frozen = [other for other in calls if _freezes(other) and other is not call]
        before = [other for other in frozen if other.lineno < call.lineno]
        before += [other for other in calls if THAW_NAME.search(last_name(other.func)) and other.lineno < call.lineno]
        after = [other for other in frozen if other.lineno > call.lineno]
        if after and not before:
            said = f"trains on validation text; {last_name(after[0].func)} in line {after[0].lineno} comes later"
            yield found("validation-before-freeze", said, flow.unit.at(call), None, "high", _WHY_NAMES)
            return


def _freezes(call: ast.Call) -> bool:
    name = dotted_name(call.func)
    return (
        bool(FREEZE_NAME.search(name)) and not THAW_NAME.search(name) and not MEASURE_NAME.match(last_name(call.func))
    )


def _as_training(flow: FunctionFlow) -> Iterator[Finding]:
    """A training loader that is given validation shards."""
    for node in own_nodes(flow.node):
        if isinstance(node, ast.Assign) and flow.holds(node.value):
            names = {word for target in node.targets for word in words_of(target)}
            trained = any(map(_TRAINING_NAME.match, names)) and not any(map(VALIDATION_NAME.match, names))
            if trained and not any("train" in word for word in words_of(node.value)):
                said = f"{', '.join(sorted(names)[:3])} is made of validation text"
                yield found("validation-as-training", said, flow.unit.at(node), None, "high", _WHY_NAMES)


_TRAINING_NAME = re.compile(r"^(train|training)_?(loader|files|tokens|data|stream|paths?|set|shards)")


def _shifts(node: ast.AST) -> bool:
    """Whether the code slices off the last position: x[:, :-1]."""
    for part in nodes_of(node):
        if isinstance(part, ast.Slice) and isinstance(part.upper, ast.UnaryOp) and isinstance(part.upper.op, ast.USub):
            return True
        if isinstance(part, ast.Call) and last_name(part.func) in ("roll", "pad"):
            return True
    return False
