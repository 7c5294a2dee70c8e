"""What a submission did besides scoring: files, connections, programs, and its own artifact."""

import re
import sys
import sysconfig
from pathlib import Path

from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.sandbox import Sandbox
from records.judge.finding import Finding

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/dev", "/opt", "/nix")
_WRITABLE = ("/dev", "/proc/self")
_SHARD = re.compile(r".+_(train|val)_\d+\.bin")


def files_probe(
    sandbox: Sandbox,
    what: str,  # whose they are
    code: Path,  # the folder of the code, whose Python files may be read
) -> Probe:
    """Whether the processes of a sandbox opened what they may and nothing else."""
    opened = [(kind, Path(detail)) for kind, detail in sandbox.opened() if kind in ("read", "write")]
    findings = [entry for kind, path in opened if (entry := _judged_file(kind, path, sandbox, code))]
    others = [path for _, path in opened if not _is_under(path, _packages())]
    measured = f"{len(opened):,} opened, {len(set(others)):,} of them no installed package"
    return probe_of(f"files of {what}", measured, list(dict.fromkeys(findings)))


def network_probe(sandbox: Sandbox, what: str) -> Probe:
    """Whether a connection was tried, and which programs were started."""
    done = sandbox.opened()
    tried = [detail for kind, detail in done if kind == "network"]
    started = [detail for kind, detail in done if kind == "process"]
    findings = [broken("network", "a connection was tried (and refused)", detail) for detail in tried[:3]]
    if started:
        message = f"{len(started)} programs were started; what they opened is not seen"
        findings.append(broken("process-started", message, ", ".join(started[:3])))
    return probe_of(f"network of {what}", f"{len(tried)} connections tried, {len(started)} programs started", findings)


def artifact_probe(before: dict[Path, str], after: dict[Path, str], what: str) -> Probe:
    """Whether every copy of the artifact is what it was, by SHA-256; a file that is gone has none."""
    findings = [
        broken("artifact-changed", "the artifact was changed while it was scored", f"{path.name} after {what}")
        for path, digest in before.items()
        if after.get(path) != digest
    ]
    return probe_of(f"artifact after {what}", "other bytes" if findings else "the same bytes", findings)


def _judged_file(kind: str, path: Path, sandbox: Sandbox, code: Path) -> Finding | None:
    shard, inside = _SHARD.fullmatch(path.name), path.is_relative_to(sandbox.scratch)
    if shard and shard[1] == "train":
        return broken("train-shard-read", "a training shard was opened", str(path))
    # A stage that may score has copies of the validation shards in its own sandbox, the others have none.
    if (shard and not inside) or path.is_relative_to(sandbox.hidden):
        return broken("validation-read", "the data set was opened instead of the tokens that are given", str(path))
    if inside or (kind == "read" and _may_read(path, code)) or (kind == "write" and _is_under(path, _WRITABLE)):
        return None
    # Libraries look for settings in many places; what is not there was not read.
    if kind == "read" and not path.is_file():
        return None
    return broken("file-outside", f"a {kind} outside of the sandbox", str(path))


def _may_read(path: Path, code: Path) -> bool:
    is_code = path.suffix in (".py", ".pyc") and (path.is_relative_to(code) or path.parent == Path(__file__).parent)
    return is_code or _is_under(path, (*_packages(), *_SYSTEM))


def _packages() -> tuple[str, ...]:
    """Where Python and its packages lie, links followed."""
    places = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
    return tuple({str(Path(place).resolve()) for place in places})


def _is_under(path: Path, folders: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
