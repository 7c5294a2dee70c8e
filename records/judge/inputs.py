"""What a script takes in beside its data: the network, pickles, other files and programs, payloads that stay closed."""

import ast
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.flow import FlowIndex
from records.judge.payload import executed_files
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import SourceUnit, last_name, nodes_of

_NETWORK_MODULES = {
    "requests",
    "httpx",
    "aiohttp",
    "urllib.request",
    "urllib3",
    "ftplib",
    "huggingface_hub",
    "wandb",
    "boto3",
}
_NETWORK_CALLS = re.compile(
    r"^(requests|httpx)\.(get|post|put|request)$|urlopen$|urlretrieve$|hf_hub_download$|snapshot_download$|^wandb\.init$"
    r"|socket\.create_connection$|^load_dataset$|datasets\.load_dataset$|from_pretrained$"
)
_NETWORK_PROGRAMS = re.compile(
    r"^(wget|curl|git|pip3?|apt(-get)?|gdown|aria2c|huggingface-cli|hf|gsutil|aws|rsync|scp|ssh)$"
)
_SHELLS = {"run", "check_output", "check_call", "call", "Popen", "system", "popen", "getoutput"}
_QUIET_PROGRAMS = re.compile(r"^(nvidia-smi|git|python3?|true|echo|uname|hostname|)$")


def judge_network(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Imports and calls that reach the network, programs that do."""
    for unit in record.units:
        for name, call in unit.calls:
            if _NETWORK_CALLS.search(name):
                yield found(
                    "network", f"{name} is called", unit.at(call), None, "high", "when it is called was not run"
                )
            program = _program(name, call)
            if (
                _NETWORK_PROGRAMS.match(program)
                and program != "git"
                or program == "git"
                and {"clone", "pull"} & _texts(call)
            ):
                yield found("network", f"runs {program}", unit.at(call), None, "high", "when it is run was not seen")
        for module, node in _imports(unit):
            if module in _NETWORK_MODULES or module.split(".")[0] in _NETWORK_MODULES:
                why = "an import is no use of it"
                yield found("network", f"imports {module}", unit.at(node), "note", "low", why)


def judge_pickles(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """What runs code when it is read."""
    for unit in record.units:
        for name, call in unit.calls:
            settings = {word.arg: word.value for word in call.keywords}
            only = settings.get("weights_only")
            if name in ("pickle.load", "pickle.loads", "dill.load", "joblib.load", "cloudpickle.load", "marshal.loads"):
                yield found("pickle", f"{name} runs whatever the file says", unit.at(call))
            elif name == "torch.load" and isinstance(only, ast.Constant) and only.value is False:
                yield found("pickle", "torch.load with weights_only=False runs whatever the file says", unit.at(call))
            elif name == "torch.load" and only is None:
                said, why = "torch.load without weights_only=True", "PyTorch 2.6 and later refuse code by default"
                yield found("pickle", said, unit.at(call), "note", "high", why)
            elif name in ("np.load", "numpy.load") and getattr(settings.get("allow_pickle"), "value", False) is True:
                yield found("pickle", f"{name} with allow_pickle=True", unit.at(call))


def judge_other_files(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Code that is run from other files, with its bytes where it lies in the folder."""
    for part in (record.code, *record.helpers.values()):
        for name in part.opened:
            file = record.folder.files.get(name)
            size = f"{file.size:,} bytes" if file else "not in the folder"
            yield found("runs-other-files", f"runs the code in {name} ({size}): it counts", f"{part.units[0].place}:1")
    opened = {name for part in (record.code, *record.helpers.values()) for name in part.opened}
    for unit in record.units:
        for call, kind in executed_files(unit):
            if opened and kind == "exec of a file":
                continue
            weight = "note" if kind.startswith("native") and record.folder.matching(r"\.(c|cc|cpp|cu|so)$") else None
            yield found("runs-other-files", kind, unit.at(call), weight, "high", "which file it is was not worked out")


def judge_programs(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Programs that must be installed for the script to run."""
    for unit in record.units:
        programs = {}
        for name, call in unit.calls:
            program = _program(name, call)
            if program and not _QUIET_PROGRAMS.match(program) and not _NETWORK_PROGRAMS.match(program):
                programs.setdefault(program, call)
        for program, call in programs.items():
            said = f"runs {program[:40]}, which must be installed"
            yield found("external-program", said, unit.at(call), None, "high", "requirements may name it")


def judge_payloads(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """What could not be read, or only just."""
    for part in (record.code, *record.helpers.values()):
        for place, reason in part.opaque:
            yield found("payload-opaque", f"what it executes cannot be unpacked: {reason}", place)
        for unit in part.units:
            if unit.approximate:
                yield found("code-approximate", "parsed without its f-strings, which need a newer Python", unit.place)
            short = _share_of_short_names(unit)
            if short > 0.6:
                said = f"{short:.0%} of the variables in it have one or two letters: rules that go by names see little"
                yield found("code-minified", said, unit.place)


def _imports(unit: SourceUnit) -> Iterator[tuple[str, ast.AST]]:
    for node in unit.nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node


def _program(name: str, call: ast.Call) -> str:
    """The program that a call of subprocess or os.system runs, "" where it is no such call or cannot be told."""
    if last_name(call.func) not in _SHELLS or not re.match(r"^(subprocess|os|sp|asyncio)\.", name) or not call.args:
        return ""
    first = call.args[0]
    while isinstance(first, (ast.List, ast.Tuple)) and first.elts:
        first = first.elts[0]
    while isinstance(first, ast.BinOp):
        first = first.left
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
    return text.split()[0].rpartition("/")[2] if text.split() else ""


def _texts(call: ast.Call) -> set[str]:
    return {word for node in nodes_of(call) if isinstance(node, ast.Constant) for word in str(node.value).split()}


def _share_of_short_names(unit: SourceUnit) -> float:
    """How much of the code is variables of one or two letters, where there is enough of it to tell."""
    names = [node.id for node in unit.nodes if isinstance(node, ast.Name)]
    return sum(len(name) <= 2 for name in names) / len(names) if len(names) > 400 else 0.0
