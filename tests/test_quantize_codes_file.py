"""Codes on disk: nothing is lost, the same codes are the same bytes, other files are refused."""

import pytest
import torch

from quantize.codes_file import load_codes, save_codes
from quantize.grid import INT5, INT8, round_to_grid
from quantize.scale import RowMax
from runtime.errors import UserError
from runtime.files import write_bytes


@pytest.fixture
def codes():
    weight = torch.arange(-30.0, 30.0).reshape(6, 10)
    return {
        "rows": round_to_grid(weight, RowMax()(weight, INT5), INT5),
        "vector": round_to_grid(weight[0], RowMax()(weight[0], INT8), INT8),
        "half": torch.tensor([-0.0, float("nan"), float("inf"), 6e-8]).half(),
        "number": torch.tensor(0.1),
    }


def test_codes_survive_their_file(tmp_path, codes):
    path = tmp_path / "run" / "codes.safetensors"
    save_codes(path, codes)
    loaded = load_codes(path)
    assert list(loaded) == sorted(codes)
    for name in ("rows", "vector"):
        assert loaded[name].grid == codes[name].grid
        assert torch.equal(loaded[name].integers, codes[name].integers)
        assert torch.equal(loaded[name].scale, codes[name].scale)
    assert torch.equal(loaded["half"].view(torch.int16), codes["half"].view(torch.int16))
    assert torch.equal(loaded["number"], codes["number"])


def test_the_same_codes_are_the_same_file(tmp_path, codes):
    for number, order in enumerate((list(codes), list(reversed(codes)))):
        save_codes(tmp_path / f"{number}", {name: codes[name] for name in order})
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_foreign_codes_files_are_refused(tmp_path, codes):
    path = tmp_path / "codes.safetensors"
    with pytest.raises(UserError, match="codes cannot be read"):
        load_codes(path)
    write_bytes(path, b"not a tensor in sight")
    with pytest.raises(UserError, match="must be a safetensors file"):
        load_codes(path)
    save_codes(path, codes)
    whole = path.read_bytes()
    write_bytes(path, whole[:-1])
    with pytest.raises(UserError, match="must be a safetensors file"):
        load_codes(path)
    for old, new, message in (
        (b"sixteen.codes", b"another.codes", "must carry the metadata 'sixteen.codes'"),
        (b"vector:scale", b"vector:skale", "has no vector:scale"),
        (b'\\"int5\\"', b'\\"int9\\"', "unknown grid 'int9'"),
    ):
        write_bytes(path, whole.replace(old, new))
        with pytest.raises(UserError, match=message):
            load_codes(path)


def test_names_with_a_colon_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"colon, got 'a:b'; nearest 'a.b'"):
        save_codes(tmp_path / "codes", {"a:b": torch.ones(1)})


def test_an_unwritable_place_is_one_clear_line(tmp_path, codes):
    write_bytes(tmp_path / "file", b"in the way")
    with pytest.raises(UserError, match="cannot write"):
        save_codes(tmp_path / "file" / "codes", codes)
