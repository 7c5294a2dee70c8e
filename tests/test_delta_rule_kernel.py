"""The delta rule's Triton kernels against the reference: on a CPU under Triton's interpreter, else on the GPU."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from test_delta_rule import inputs, relative_rms, results, some_starts
from test_ops import poisoned_memory  # noqa: F401
from tiny_runs import ROOT

from ops.delta_rule import dispatch
from ops.delta_rule.gpu_bench import GpuShape, check_on_device, delta_rule_gpu_rows
from ops.delta_rule.kernel import kernel_delta_rule
from ops.delta_rule.padded import SOUND_HEAD, padded_kernel_delta_rule
from ops.delta_rule.reference import delta_rule_reference
from runtime.errors import UserError

pytest.importorskip("triton", reason="Triton exists for Linux on x86-64 only")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# What was wrong on a GPU would end the process there (benchmarks/h200.md).
FORM = padded_kernel_delta_rule if DEVICE == "cuda" else kernel_delta_rule
NAMES = ("out", "final", "q", "k", "v", "beta", "g", "state")
# Below this an error is rounding in sums that cancel, whatever its share: the gradient of g where all is forgotten.
ROUNDING = 1e-6


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Triton's, rounding fp32 to bf16 as a GPU does instead of cutting it off, and a third faster."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert_float, patch_lang, patched = interpreter._convert_float, interpreter._patch_lang, set()

    def convert(data, given, wanted, rounding):
        if (given.name, wanted.name) != ("fp32", "bf16"):
            return convert_float(data, given, wanted, rounding)
        return torch.from_numpy(data.copy()).bfloat16().view(torch.uint16).numpy()

    def patch_once(function):
        # Not again for every call of every function of ours.
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch_lang(function)
        return interpreter._LangPatchScope()

    monkeypatch.setattr(interpreter, "_convert_float", convert)
    monkeypatch.setattr(interpreter, "_patch_lang", patch_once)


def narrowed(arguments, dtype):
    """The arguments as the kernels take them: q, k and v in `dtype`, the rest in fp32."""
    dtypes = [dtype] * 3 + [torch.float32] * 3
    return [x.detach().to(DEVICE, to).requires_grad_() for x, to in zip(arguments, dtypes, strict=True)]


def on_cpu(tensors):
    return [x.detach().cpu() for x in tensors]


def kernel_results(arguments, dtype, starts=None, **options):
    starts = None if starts is None else starts.to(DEVICE)
    return on_cpu(results(FORM, narrowed(arguments, dtype), starts=starts, **options))


def errors_of(got, wanted):
    """Relative RMS errors by name, 0 where the error is nothing but rounding."""
    pairs = zip(NAMES, got, wanted, strict=True)
    return {name: relative_rms(x, y) if (x - y).abs().max() > ROUNDING else 0.0 for name, x, y in pairs}


@pytest.mark.parametrize(
    "length, heads, sizes, predict_from, starts",
    [
        (1, (1, 1), (32, 32), "undecayed", False),
        (63, (1, 2), (36, 72), "undecayed", True),
        (64, (1, 1), (64, 64), "decayed", False),
        (3, (2, 4), (16, 8), "decayed", False),
        (65, (1, 1), (48, 96), "decayed", True),
        (130, (1, 1), (72, 36), "undecayed", True),
        (130, (1, 1), (128, 64), "decayed", False),
        (65, (1, 1), (256, 32), "decayed", False),
        (5, (1, 1), (32, 256), "undecayed", False),
    ],
)
def test_values_and_every_gradient_are_those_of_the_reference(length, heads, sizes, predict_from, starts):
    if DEVICE == "cuda" and max(sizes) > SOUND_HEAD:
        pytest.skip(f"no GPU has run the kernels for heads of {max(sizes)} to their end")
    # So little decay that a state which is not emptied at a start is seen in the next chunk.
    arguments = inputs(length, batch=1, heads=heads, sizes=sizes, normaliser=30.0)
    options = {"predict_from": predict_from, "starts": some_starts(length, batch=1) if starts else None}
    wanted = results(delta_rule_reference, arguments, **options)
    got = kernel_results(arguments, torch.float32, **options)
    assert [x.dtype for x in got] == [torch.float32] * 8
    assert max(errors_of(got, wanted).values()) <= 5e-6, errors_of(got, wanted)


def plain_delta_rule(q, k, v, beta, g, state):
    """The recurrence as somebody would write it in bf16, all of it in that dtype."""
    S, outputs = state, []
    for t in range(v.shape[1]):
        S = g[:, t].exp()[..., None, None] * S
        error = v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], S)
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * error)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * q.shape[-1] ** -0.5, S))
    return torch.stack(outputs, dim=1), S


@pytest.mark.parametrize("normaliser", [0.1, 10.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_errs_less_than_the_design_and_flash_linear_attention_allow(dtype, normaliser):
    arguments = [
        x.to(dtype).double() for x in inputs(130, batch=1, heads=(1, 1), sizes=(64, 32), normaliser=normaliser)
    ]
    arguments = [x.detach().requires_grad_() for x in arguments]
    wanted = results(delta_rule_reference, arguments)
    ours = errors_of(kernel_results(arguments, dtype), wanted)
    plain = errors_of(results(plain_delta_rule, [x.detach().to(dtype).requires_grad_() for x in arguments]), wanted)
    print(dtype, normaliser, {name: f"{ours[name]:.1e}/{plain[name]:.1e}" for name in NAMES})
    for name in NAMES:
        assert ours[name] <= (2 if name in ("out", "final") else 3) * plain[name], (name, ours, plain)
        if dtype == torch.float16:
            assert ours[name] <= {"out": 0.005, "final": 0.005, "beta": 0.02, "g": 0.02}.get(name, 0.008), (name, ours)


@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
def test_strong_decay_overflows_nowhere(predict_from):
    arguments = inputs(70, batch=1, heads=(1, 1), sizes=(32, 32))
    arguments[4] = (arguments[4].detach() * 100 - 50).requires_grad_()
    wanted = results(delta_rule_reference, arguments, predict_from=predict_from)
    for dtype, most in ((torch.float32, 5e-6), (torch.bfloat16, 0.02)):
        errors = errors_of(kernel_results(arguments, dtype, predict_from=predict_from), wanted)
        assert max(errors.values()) <= most, errors


def test_repeated_keys_written_in_full_keep_the_inverse_exact():
    q, k, v, beta, g, state = inputs(64, batch=1, heads=(1, 1), sizes=(32, 32))
    same = k.detach()[:, :1].expand_as(k).contiguous().requires_grad_()
    arguments = [q, same, v, torch.ones_like(beta).requires_grad_(), torch.zeros_like(g).requires_grad_(), state]
    errors = errors_of(kernel_results(arguments, torch.float32), results(delta_rule_reference, arguments))
    assert max(errors.values()) <= 5e-6, errors


def test_no_decay_is_a_decay_of_zero_bit_for_bit_and_no_state_one_of_zeros():
    q, k, v, beta, g, state = narrowed(inputs(65, batch=1, heads=(1, 1), sizes=(32, 32)), torch.float32)
    without = results(FORM, (q, k, v, beta, None, None))
    zeros = [torch.zeros_like(x).requires_grad_() for x in (g, state)]
    for x, y in zip(without, results(FORM, (q, k, v, beta, *zeros)), strict=False):
        assert torch.equal(x, y)


def test_gradients_of_the_output_alone_and_of_the_last_state_alone_add_up():
    arguments = narrowed(inputs(65, batch=1, heads=(1, 1), sizes=(32, 32)), torch.float32)
    output, final = FORM(*arguments, scale=0.5)
    parts = [torch.autograd.grad(y.square().sum(), arguments, retain_graph=True) for y in (output, final)]
    both = torch.autograd.grad(output.square().sum() + final.square().sum(), arguments)
    for whole, *pair in zip(both, *parts, strict=True):
        torch.testing.assert_close(sum(pair), whole)


def test_arguments_need_not_lie_in_memory_in_their_order():
    arguments = narrowed(inputs(3, batch=2, heads=(1, 1), sizes=(16, 16)), torch.float32)
    strided = [torch.stack((x, x), dim=-1).detach()[..., 0].requires_grad_() for x in arguments]
    assert not any(x.is_contiguous() for x in strided)
    for x, y in zip(results(FORM, strided), results(FORM, arguments), strict=True):
        assert torch.equal(x, y)


def test_torch_compile_keeps_it_whole():
    arguments = narrowed(inputs(3, batch=1, heads=(1, 2), sizes=(16, 8)), torch.float32)

    def twice(*arguments):
        output, final = FORM(*arguments)
        return 2 * output, final

    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    for x, y in zip(results(compiled, arguments), results(twice, arguments), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("predict_from, starts", [("decayed", False), ("undecayed", True)])
def test_padded_heads_give_what_heads_of_their_own_size_give(predict_from, starts):
    arguments = inputs(66, batch=1, heads=(1, 2), sizes=(36, 72), normaliser=30.0)
    options = {"predict_from": predict_from, "starts": some_starts(66, batch=1) if starts else None}
    wanted = results(delta_rule_reference, arguments, **options)
    on_device = {**options, "starts": None if options["starts"] is None else options["starts"].to(DEVICE)}
    got = on_cpu(results(padded_kernel_delta_rule, narrowed(arguments, torch.float32), **on_device))
    assert [x.shape for x in got] == [x.shape for x in wanted]
    assert max(errors_of(got, wanted).values()) <= 5e-6, errors_of(got, wanted)


@pytest.mark.parametrize(
    "keys, values, on_cuda, takes",
    [(128, 128, 1, 1), (64, 128, 1, 1), (36, 72, 1, 1), (64, 256, 1, 0), (128, 128, 0, 0)],
)
def test_a_model_gets_the_kernels_for_heads_that_were_right_on_a_gpu(keys, values, on_cuda, takes, monkeypatch):
    k, v = torch.zeros(1, 2, 1, keys), torch.zeros(1, 2, 1, values)
    taken = []
    monkeypatch.setattr(dispatch, "padded_kernel_delta_rule", lambda *_, **__: taken.append("kernel"))
    monkeypatch.setattr(dispatch, "chunked_delta_rule", lambda *_, **__: taken.append("chunked"))
    cuda = SimpleNamespace(shape=v.shape, is_cuda=bool(on_cuda), element_size=lambda: 2)
    dispatch.delta_rule(k, k, cuda, torch.ones(1, 2, 1))
    assert taken == ["kernel" if takes else "chunked"]


def test_what_the_kernels_cannot_do_is_said():
    wide = inputs(2, batch=1, heads=(1, 1))
    with pytest.raises(UserError, match="take fp16, bf16 or fp32, got torch.float64; nearest torch.float32"):
        kernel_delta_rule(*wide)
    large = narrowed(inputs(2, batch=1, heads=(1, 1), sizes=(8, 257)), torch.float32)
    with pytest.raises(UserError, match="take heads of at most 256, got 8 and 257; nearest 8 and 256"):
        kernel_delta_rule(*large)
    with pytest.raises(UserError, match="nearest: decayed"):
        kernel_delta_rule(*large, predict_from="decay")
    with pytest.raises(UserError, match="with heads of at most 128, got 8 and 257; nearest 8 and 128"):
        padded_kernel_delta_rule(*large)
    q, *others = narrowed(inputs(2, batch=1, heads=(1, 1), sizes=(8, 8)), torch.float32)
    # Padded, both would be of one size.
    with pytest.raises(UserError, match=r"k must have the shape \(1, 2, 1, 7\) that q and v give it"):
        padded_kernel_delta_rule(q[..., :7], *others)


def test_everything_else_works_without_triton(tmp_path):
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from ops.delta_rule.dispatch import delta_rule\n"
        "from ops.triton_or_none import triton\n"
        "x, beta = torch.ones(1, 3, 1, 16), torch.ones(1, 3, 1)\n"
        "print(triton, delta_rule(x, x / 4, x, beta)[0].shape)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("None torch.Size([1, 3, 1, 16])\n", "")


def test_every_kernel_compiles_for_hopper_into_tensor_core_instructions_and_its_shared_memory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = [sys.executable, str(ROOT / "tests/hopper.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert len(kernels) == 7
    for name, shared, products in kernels:
        assert int(shared) <= 227 * 1024 and int(products) > 0, name


def test_the_table_of_the_gpu_benchmark(monkeypatch):
    shapes = (GpuShape(1, 3, 2, 16, published_delta=2.0, published_attention=3.0),)
    calls = []

    def clock(work):
        work()
        calls.append(work)
        return None if len(calls) == 3 else 2.0 ** len(calls)

    rows, table = delta_rule_gpu_rows(torch.device(DEVICE), clock, shapes, checked=shapes)
    ours, chunked, attention = (line.split() for line in table.splitlines()[1:4])
    assert ours == ["1x3x2x16", "ours", "2.000", "4.000"]
    assert chunked == ["1x3x2x16", "chunked", "no", "memory", "16.000"]
    assert attention == ["1x3x2x16", "attention", "32.000", "64.000"]
    assert (rows[0].name, rows[0].value, rows[0].target) == ("delta_rule_1x3x2x16", 16.0, (">=", 1.5))
    monkeypatch.setattr("ops.delta_rule.gpu_bench.LARGEST_ERROR", 1e-9)
    with pytest.raises(RuntimeError, match="the delta rule's output is .* off at 1x3x2x16, at most 1e-09"):
        check_on_device(torch.device(DEVICE), shapes)
