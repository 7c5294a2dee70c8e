"""The counted file: one recipe in one script, which trains, scores and counts as the repository does, alone."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import ROOT, command, tiny

from compress.__main__ import main as compress_main
from compress.bundle import bundle_recipe
from compress.flatten import flatten
from compress.minify import minify_source
from compress.range_coder import RangeKind
from compress.script import pack_source, unpack_source
from eval.__main__ import main as eval_main
from recipes.recipe import load_recipe, recipe_names
from recipes.stages import eval_artifact
from records.new import RANGE_CODER_PACKAGE, RUNTIME_PACKAGES
from runtime.command import exit_code_of
from runtime.errors import UserError
from runtime.machine import Machine

LARGEST_INT5_INT6 = 20_000


@pytest.fixture
def unpacked_at(workplace, monkeypatch):
    """Puts a recipe's counted file and its twin into an empty folder, and goes there."""

    def place(name, run_id="alone"):
        folder = workplace / f"{name} alone"
        folder.mkdir()
        bundle = bundle_recipe(name, ROOT)
        (folder / "train_gpt.py").write_bytes(bundle.counted)
        (folder / "train_gpt_readable.py").write_text(bundle.readable)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("RUN_ID", run_id)
        return folder

    return place


def unregistered(name, **_):
    """In the place of `torch.library.custom_op`: a second registration would pull the first from under its holders."""

    def as_it_is(function):
        function.register_fake = lambda fake: fake
        return function

    return as_it_is


def run_here(script, *arguments) -> int:
    """Runs a script in this process, as `python script arguments` would; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *arguments])
        patch.setattr(torch.library, "custom_op", unregistered)
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(script), run_name="__main__")
    return left.value.code


def run_alone(folder, *arguments, **environment) -> subprocess.CompletedProcess:
    """Runs `python arguments` in `folder` without any way to the repository."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def step_lines(text: str) -> list[str]:
    """The lines of a log that tell of steps, without their times."""
    return [re.sub(r" (train_time|step_avg):\S+", "", line) for line in text.splitlines() if "train_loss:" in line]


@pytest.mark.parametrize("name", recipe_names())
def test_the_counted_file_trains_to_the_bits_of_the_repository(name, run_tiny, unpacked_at, capsys):
    expected = run_tiny(name, "repo")
    losses = step_lines(capsys.readouterr().out)
    folder = unpacked_at(name)
    assert run_here(folder / "train_gpt.py", *tiny(name)) == 0
    run, said = folder / "runs" / "alone", capsys.readouterr().out
    assert step_lines(said) == losses and len(losses) == 10
    tensors, others = (load_file(place / "checkpoint.safetensors") for place in (run, expected))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    assert (run / "model.bin").read_bytes() == (expected / "model.bin").read_bytes()
    figures, wanted = (json.loads((place / "score.json").read_text()) for place in (run, expected))
    assert {**figures, "seconds": 0} == {**wanted, "seconds": 0}
    report, _ = eval_artifact(run / "model.bin", Machine())
    assert report.score.bpb == figures["val_bpb"]


def test_the_ledger_counts_the_file_that_runs(run_tiny, unpacked_at, capsys):
    artifact = run_tiny("demo", "repo") / "model.bin"
    folder = unpacked_at("demo")
    size = (folder / "train_gpt.py").stat().st_size
    capsys.readouterr()
    assert run_here(folder / "train_gpt.py", "--score", str(artifact), "--stride=32") == 0
    said = capsys.readouterr().out
    assert f"Code size: {size} bytes" in said
    assert f"Total submission size zstd22: {size + artifact.stat().st_size} bytes" in said
    assert "window=128 stride=32" in said
    assert not (folder / "runs").exists()


def test_it_scores_kinds_and_a_coder_that_overrides_put_in_the_place_of_its_own(run_tiny, unpacked_at, capsys):
    changes = {"pack__plan__0__store": "int6", "pack__kinds__0__grid": "int6", "pack__coder": "lzma"}
    artifact = run_tiny("demo_rate", "repo", **changes) / "model.bin"
    folder = unpacked_at("demo_rate")
    size = (folder / "train_gpt.py").stat().st_size + artifact.stat().st_size
    capsys.readouterr()
    assert run_here(folder / "train_gpt.py", "--score", str(artifact), "--stride", "128") == 0
    assert f"Total submission size lzma: {size} bytes" in capsys.readouterr().out


def test_it_needs_nothing_but_itself_its_packages_and_the_data(run_tiny, unpacked_at):
    artifact = run_tiny("demo", "repo") / "model.bin"
    folder = unpacked_at("demo")
    (folder / "train_gpt_readable.py").unlink()
    # -I: not even the folder of the script is searched for modules.
    done = run_alone(folder, "-I", "train_gpt.py", *tiny(), RUN_ID="", SEED="1337")
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    assert (run / "model.bin").read_bytes() == artifact.read_bytes()


def test_it_scores_what_the_repository_scores(run_tiny, unpacked_at, capsys):
    artifact = run_tiny("int5_int6", "repo") / "model.bin"
    folder = unpacked_at("int5_int6")
    # On whatever this machine computes in, both in the same way.
    eval_main([str(artifact), "--stride", "64"])
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("sliding window=128 stride=64 ")
    )
    assert run_here(folder / "train_gpt.py", "--score", str(artifact), "--stride", "64") == 0
    assert line.partition(" eval_time")[0] in capsys.readouterr().out


def test_two_ranks_of_it_train_as_two_ranks_of_the_repository(unpacked_at, workplace):
    folder = unpacked_at("int5_int6", "pair")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # One after the other: four ranks on two cores mostly wait for each other.
    theirs = command([*torchrun, str(ROOT / "train_gpt.py"), "int5_int6", *tiny()], workplace)
    mine = run_alone(folder, *torchrun, "train_gpt.py", *tiny())
    assert (theirs.returncode, mine.returncode) == (0, 0), mine.stderr
    trained, expected = folder / "runs/pair/model.bin", workplace / "runs/pair/model.bin"
    assert trained.read_bytes() == expected.read_bytes()


def test_it_goes_on_where_an_earlier_start_stopped(unpacked_at, capsys):
    folder = unpacked_at("int5_int6")
    assert run_here(folder / "train_gpt.py", *tiny()) == 0
    expected = (folder / "runs/alone/model.bin").read_bytes()
    (folder / "runs/alone/model.bin").unlink()
    assert run_here(folder / "train_gpt.py", *tiny()) == 0
    assert "resuming at step 10" in capsys.readouterr().out
    assert (folder / "runs/alone/model.bin").read_bytes() == expected


def test_the_readable_twin_runs_as_the_counted_file_does(unpacked_at, capsys):
    folder = unpacked_at("demo_qat")
    assert run_here(folder / "train_gpt.py", *tiny()) == 0
    counted = capsys.readouterr().out
    expected = (folder / "runs/alone/model.bin").read_bytes()
    for path in (folder / "runs/alone").iterdir():
        path.unlink()
    assert run_here(folder / "train_gpt_readable.py", *tiny()) == 0
    said = capsys.readouterr().out
    assert (folder / "runs/alone/model.bin").read_bytes() == expected
    assert step_lines(said) == step_lines(counted)
    assert f"Code size: {(folder / 'train_gpt_readable.py').stat().st_size} bytes" in said


@pytest.mark.parametrize("name", recipe_names())
def test_the_twin_is_a_module_of_everything_that_a_judge_needs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.library, "custom_op", unregistered)
    (tmp_path / "twin.py").write_text(bundle_recipe(name, ROOT).readable)
    twin = runpy.run_path(str(tmp_path / "twin.py"), run_name="twin")
    assert {"open_packed", "Machine", "load_recipe", name} <= twin.keys()
    assert twin["load_recipe"](name).name == name
    with pytest.raises(twin["UserError"], match=f"this file holds the recipe {name} alone, got 'other'"):
        twin["load_recipe"]("other")


def test_mistakes_name_the_line_of_the_twin_that_has_the_sentence(unpacked_at, capsys):
    folder = unpacked_at("int5_int6")
    assert run_here(folder / "train_gpt.py", "--trian.steps", "3") == 2
    said = capsys.readouterr().err
    prefix = "error: train_gpt_readable.py line "
    assert said.startswith(prefix) and said.endswith(": trian.steps\n")
    twin = (folder / "train_gpt_readable.py").read_text().splitlines()
    assert "unknown override" in twin[int(said.removeprefix(prefix).partition(":")[0]) - 1]
    assert run_here(folder / "train_gpt_readable.py", "--trian.steps", "3") == 2
    assert capsys.readouterr().err.startswith("error: unknown override --trian.steps; nearest: train.steps, ")
    assert not (folder / "runs").exists()


def test_int5_int6_takes_at_most_20000_bytes():
    stages = bundle_recipe("int5_int6", ROOT).stages
    print(stages)
    assert list(stages.values()) == sorted(stages.values(), reverse=True)
    assert stages["packed"] <= LARGEST_INT5_INT6


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_packed_comes_out_and_packs_to_the_same_bytes(name):
    counted = bundle_recipe(name, ROOT).counted
    assert pack_source(unpack_source(counted)) == counted


def test_the_same_repository_gives_the_same_bytes(monkeypatch):
    # As in an interactive session.
    monkeypatch.setattr("builtins._", 1, raising=False)
    bundle = bundle_recipe("demo", ROOT)
    assert bundle_recipe.__wrapped__("demo", ROOT).readable == bundle.readable
    assert pack_source(minify_source(bundle.readable)) == bundle.counted


@pytest.mark.parametrize("name", recipe_names())
def test_it_imports_python_and_the_packages_of_a_record(name):
    tree = ast.parse(unpack_source(bundle_recipe(name, ROOT).counted))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {module.partition(".")[0] for module in found} - set(sys.stdlib_module_names)
    # Triton comes with torch where there are GPUs; kernels do without it elsewhere.
    assert packages - {"triton", RANGE_CODER_PACKAGE} == set(RUNTIME_PACKAGES)
    codes_ranges = any(isinstance(kind, RangeKind) for kind in load_recipe(name).pack.kinds)
    assert (RANGE_CODER_PACKAGE in packages) == codes_ranges


def test_a_record_ships_the_counted_file_and_every_size_agrees(run_tiny, workplace):
    run = run_tiny("demo", "shipped")
    bundle = bundle_recipe("demo", ROOT)
    record = next(workplace.glob("records/*/*/submission.json")).parent
    assert (record / "train_gpt.py").read_bytes() == bundle.counted
    assert (record / "train_gpt_readable.py").read_text() == bundle.readable
    assert not [path for path in record.rglob("*.py") if not path.name.startswith("train_gpt")]
    size, submission = len(bundle.counted), json.loads((record / "submission.json").read_text())
    ledger = json.loads((record / "ledger.json").read_text())
    assert ledger["code"] == {"train_gpt.py": size} and submission["bytes_code"] == ledger["code_total"] == size
    log = (run / "train.log").read_text()
    assert f"Code size: {size} bytes" in log and f"code sha256:{submission['code_sha256']}" in log


def test_the_text_of_a_packed_function_can_be_inspected(tmp_path):
    source = 'import inspect\ndef double(x):\n    return 2 * x\nprint(inspect.getsource(double), end="")\n'
    (tmp_path / "train_gpt.py").write_bytes(pack_source(source))
    done = run_alone(tmp_path, "train_gpt.py")
    assert (done.stdout, done.stderr) == ("def double(x):\n    return 2 * x\n", "")


def test_a_triton_kernel_survives_being_flattened_minified_and_packed(tmp_path):
    pytest.importorskip("triton", reason="Triton exists for Linux on x86-64 only")
    entry = """
        import torch
        from ops.delta_rule.kernel import kernel_delta_rule


        def figures():
            x = torch.linspace(0.1, 1, 3 * 16).view(1, 3, 1, 16).requires_grad_()
            output, state = kernel_delta_rule(x, x / x.norm(dim=-1, keepdim=True), x, torch.full((1, 3, 1), 0.5))
            (output.sum() + state.square().sum()).backward()
            return [output.sum().item(), state.sum().item(), x.grad.sum().item()]


        if __name__ == "__main__":
            print(figures())
    """
    entry = textwrap.dedent(entry)
    here = {"__name__": "here"}
    exec(compile(entry, "here", "exec"), here)
    flat, files = flatten(ROOT, "parts/entry.py", entry)
    assert "ops/triton_or_none.py" in files and flat.count("import triton\n") == 1
    for name, script in (("twin.py", flat.encode("utf-8")), ("train_gpt.py", pack_source(minify_source(flat)))):
        (tmp_path / name).write_bytes(script)
        done = run_alone(tmp_path, "-I", name)
        assert (done.stdout, done.stderr) == (f"{here['figures']()}\n", "")


def test_every_byte_survives_the_script():
    source = "".join(map(chr, range(1, 0x250))) * 3 + "\\0017 \0"
    script = pack_source(source)
    assert unpack_source(script) == source
    assert script.replace(b"\n", b"\r\n").replace(b"\r\n", b"\n") == script
    for damaged in (b"", script[:-1], script + b"print(1)\n", script[:90] + b"?" + script[90:], b"import lzma\n"):
        with pytest.raises(UserError, match="a counted file must be as `python -m compress bundle` packs it"):
            unpack_source(damaged)


def test_the_command_writes_both_files(tmp_path, capsys):
    assert exit_code_of(lambda: compress_main(["bundle", "int5_int6", "--out", str(tmp_path)])) == 0
    said = capsys.readouterr().out
    stages = bundle_recipe("int5_int6", ROOT).stages
    assert all(stage in said and f"{size:,} bytes" in said for stage, size in stages.items())
    assert (tmp_path / "train_gpt.py").stat().st_size == stages["packed"]
    assert (tmp_path / "train_gpt_readable.py").stat().st_size == stages["shaken"]
    assert exit_code_of(lambda: compress_main(["bundle", "int5_int7", "--out", str(tmp_path)])) == 2
    near = "int5_int6, int5_int6_rate, int5_int6_pocket"
    assert capsys.readouterr().err == f"error: unknown recipe 'int5_int7'; nearest: {near}\n"


@pytest.fixture
def repository(tmp_path):
    """Writes the files of a small repository whose entry is main/entry.py, and flattens it."""

    def build(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(textwrap.dedent(text))
        return flatten(tmp_path, "main/entry.py")[0]

    return build


def output_of(source: str, capsys) -> str:
    exec(compile(source, "flat", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


def test_names_are_followed_and_nothing_else_is_taken(repository, capsys):
    flat = repository(
        main__entry="""
            import math
            import os
            from parts.shapes import area

            if __name__ == "__main__":
                print(area(3), math.floor(2.5))
        """,
        parts__shapes='''
            """Shapes."""

            from parts.numbers import _SCALE_NAME, scale, unused
            from parts.never_opened import nothing

            # Why twice.
            _factor = 2


            def area(x: float) -> float:
                return _factor * scale(x)


            def volume(x):
                return unused(nothing(x))
        ''',
        parts__numbers="""
            _SCALE_NAME = "never read"
            # The same private name as in the other module.
            _factor = 10


            def scale(x):
                return _factor * x


            def unused(x):
                return x
        """,
    )
    assert output_of(flat, capsys) == "60 2\n"
    assert flat.index("# parts/numbers.py") < flat.index("# parts/shapes.py") < flat.index("# main/entry.py")
    assert '"""Shapes."""' in flat and "# Why twice.\n_factor_shapes = 2" in flat
    for gone in ("volume", "unused", "never", "import os"):
        assert gone not in flat
    assert output_of(minify_source(flat), capsys) == "60 2\n"


def test_methods_that_nobody_names_go_and_classes_that_only_annotations_name(repository, capsys):
    flat = repository(
        main__entry="""
            from dataclasses import dataclass, fields
            from typing import get_type_hints

            from parts.kinds import Big, Small


            @dataclass(frozen=True)
            class Config:
                kind: type[Small] | type[Big] | None = Small
                size: int = 3

                @property
                def twice(self) -> int:
                    # Nobody asks.
                    return 2 * self.size

                def once(self) -> int:
                    return self.size

                def by_string(self) -> int:
                    return 7


            def show(config: Config | Big) -> None:
                print(get_type_hints(Config)["kind"], config.once(), getattr(config, "by_string")())


            if __name__ == "__main__":
                show(Config())
        """,
        parts__kinds="""
            class Small:
                pass


            class Big:
                pass
        """,
    )
    for text in (flat, minify_source(flat)):
        assert "Small] | None 3 7" in output_of(text, capsys)
        assert "Big" not in text and "twice" not in text and "Nobody" not in text


def test_what_the_entry_defines_takes_the_place_of_the_same_name(repository, capsys):
    flat = repository(
        main__entry="""
            from parts.work import work


            def load(name):
                return f"{name} of the entry"


            if __name__ == "__main__":
                print(work())
        """,
        parts__work="""
            import importlib


            def load(name):
                return importlib.import_module(name)


            def work():
                return load("work")
        """,
    )
    assert output_of(flat, capsys) == "work of the entry\n"
    assert "importlib" not in flat


def test_what_is_added_to_a_needed_name_is_needed(repository, capsys):
    flat = repository(
        main__entry="""
            from parts.operators import OPERATORS, double

            if __name__ == "__main__":
                print(double(2), double(2.0), OPERATORS)
        """,
        parts__operators="""
            from functools import singledispatch

            OPERATORS = {}
            LISTED = []
            OPERATORS["double"] = 2


            @singledispatch
            def double(x):
                return 2 * x


            @double.register
            def _(x: int):
                return f"{x} whole"


            def halve(x):
                return x / 2


            double.register(float, halve)
            LISTED.append("not needed")
        """,
    )
    for text in (flat, minify_source(flat)):
        assert output_of(text, capsys) == "2 whole 1.0 {'double': 2}\n"
        assert "LISTED" not in text and "not needed" not in text


def test_annotations_stay_where_something_may_read_them():
    source = """
from functools import wraps

def jit(f):
    return f

@jit
def kernel(x, block_size: "constant") -> None:
    width: int = 3
    return width + block_size + block_size + block_size

class Box:
    @staticmethod
    def make(x: int) -> int:
        return x

if __name__ == "__main__":
    print(kernel.__annotations__, Box.make.__annotations__)
"""
    text = minify_source(source)
    assert "(x,block_size:'constant')->None:width=3;return width+block_size+block_size+block_size" in text
    assert ":int" not in text.replace(" ", "") and "wraps" not in text


def test_the_future_comes_first(repository, capsys):
    flat = repository(
        main__entry="""
            import abc
            from parts.late import late

            if __name__ == "__main__":
                print(late(), abc.__name__)
        """,
        parts__late="""
            from __future__ import annotations


            def late() -> NotThere:
                return 1
        """,
    )
    assert flat.startswith("from __future__ import annotations\nimport abc\n")
    assert output_of(flat, capsys) == "1 abc\n"


ENTRY = 'from parts.a import a\n\nif __name__ == "__main__":\n    a()\n'


@pytest.mark.parametrize(
    "files, message",
    [
        ({"parts__a": "import parts.b\n"}, "parts/a.py line 1: our own code is imported as `from package.module"),
        ({"parts__a": "\nfrom parts.b import b as c\n"}, "parts/a.py line 2: our own code is imported as"),
        ({"parts__a": "from parts.b import *\n"}, "parts/a.py line 1: .*got `from parts.b import \\*`$"),
        ({"parts__a": "from . import b\n"}, "parts/a.py line 1: .*got `from . import b`$"),
        (
            {"parts__a": "def a():\n    from parts.b import b\n    b()\n"},
            "parts/a.py line 2: .*got `from parts.b import b` further in$",
        ),
        ({"parts__a": "def a():\n    pass\n\nprint(1)\n"}, "parts/a.py line 4: a module that can be bundled defines"),
        ({"parts__a": "a = 1; b = 2\n"}, "parts/a.py line 1: a statement must begin a line, got `b = 2`"),
        ({"parts__a": "def a(:\n"}, "parts/a.py line 1: a source file must be Python, got invalid syntax"),
        ({"parts__a": "b = 1\n"}, "main/entry.py imports a from parts/a.py, which does not define it"),
        ({}, "a source file cannot be read: .*parts/a.py: No such file"),
        (
            {
                "parts__a": "from parts.b import b\n\n\ndef twice():\n    return 2\n\n\ndef a():\n    b(twice())\n",
                "parts__b": "def twice(x):\n    return x\n\n\ndef b(x):\n    return twice(x)\n",
            },
            "twice would mean two things in one file: parts/b.py line 1, and parts/a.py line 4",
        ),
        (
            {
                "parts__a": "from parts.b import b\n\n\ndef a():\n    b()\n",
                "parts__b": "from parts.a import a\nb = a\n",
            },
            "imports must not go in a circle, got parts/a.py -> parts/b.py -> parts/a.py",
        ),
        (
            {"parts__a": "def print():\n    pass\n\n\ndef a():\n    print()\n"},
            "print would mean two things .* a builtin",
        ),
        (
            {
                "parts__a": "from json import dumps as b\nfrom parts.b import c\n\n\ndef a():\n    b(c)\n",
                "parts__b": "from json import loads as b\n\nc = b\n",
            },
            "b would mean two things in one file: from json import loads as b, and from json import dumps as b",
        ),
    ],
)
def test_what_cannot_be_bundled_is_named_with_file_and_line(repository, files, message):
    with pytest.raises(UserError, match=message) as refusal:
        repository(main__entry=ENTRY, **{"parts__other": "", **files})
    assert "\n" not in str(refusal.value)
