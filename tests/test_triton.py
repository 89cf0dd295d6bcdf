"""The Triton kernels: in Triton's interpreter against the reference, and compiled for sm_90, both without a GPU.

The interpreter must be chosen before Triton is imported, so its cases run in a process of their own: this file as a
script, which prints what went wrong with which case.
"""

import json
import os
import re
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from cases import CASES, COMPACT, DELAYED, FORMATS, HARD, RESETS, SURROGATES, Case, assert_same, run, tolerance
from conftest import poison

import fastlif
from fastlif import surrogate
from fastlif.neuron import Neuron
from fastlif.ops import state
from fastlif.ops import triton as backend

triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64

TABLE = [
    *(case for case in CASES if prod(case.shape) < 4000),
    *(Case(o, (18, 1025), d) for o, d in zip(FORMATS, (F32, BF16, F32, BF16, F16, F64), strict=True)),
    *(Case({**o, "truncate": (40, 30)}, (70, 2, 9), learned="channel") for o in (HARD, DELAYED)),
]
THRESHOLD_ALONE = [  # keeps spikes, bits or codes, with a gradient of the threshold
    dict(**reset, detach_reset=detach, **kind)
    for reset in RESETS
    for detach in (False, True)
    for kind in (
        dict(surrogate=surrogate.Rectangle(1.5)),
        dict(surrogate=surrogate.PassThrough(0.8)),
        dict(surrogate=surrogate.Triangle(0.75, 0.4), state="compact"),
        dict(surrogate=surrogate.Rectangle(1.5), state="compact", truncate=3),
    )
]
STATES = [dict(), dict(surrogate="rectangle"), dict(reset="hard", surrogate="pass_through"), {**HARD, **COMPACT}]


def threshold_alone(options, backend):
    x = torch.randn(11, 2, 5, 13, generator=torch.Generator().manual_seed(1)).requires_grad_()
    threshold = torch.linspace(0.5, 1, 5)[:, None].requires_grad_()
    spikes, v = fastlif.lif(x, threshold=threshold, backend=backend, **options)
    g = torch.linspace(-1, 1, x.numel()).view_as(x)
    dx, dthreshold = torch.autograd.grad((spikes, v), (x, threshold), (g, torch.ones_like(v)))
    return dict(spikes=spikes.detach(), v=v.detach(), dx=dx, dthreshold=dthreshold)


def without_grad(backend):
    x = torch.randn(7, 1030, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        spikes, v = fastlif.lif(x, decay=torch.full((1030,), 0.7), backend=backend)
    return dict(spikes=spikes, v=v)


def integrator(truncate, backend):
    x = torch.randn(21, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    membranes = fastlif.LI(0.8, bias=0.1, truncate=truncate, backend=backend)(x)
    (dx,) = torch.autograd.grad(membranes, x, torch.linspace(-1, 1, x.numel()).view_as(x))
    return dict(v=membranes.detach(), dx=dx)


def forward_state(options, steps, backend):
    """The bytes kept for backward, padding included."""
    neuron = Neuron(**options)
    x = torch.randn(steps, 1030, generator=torch.Generator().manual_seed(1))
    call = neuron.values, neuron.options, int(state.choose(neuron, True, False, False)), False, x.dtype, backend
    _, v, kept, _ = torch.ops.fastlif.lif_forward(x, *(None,) * 4, *call)
    return dict(v=v, state=kept)


def extreme(options, backend):
    """NaN, infinities and subnormals through every step."""
    values = torch.tensor([0.7, torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-42, -0.0])
    x = torch.cartesian_prod(*[values] * 3).T.contiguous().requires_grad_()
    spikes, v = fastlif.lif(x, backend=backend, **options)
    (dx,) = torch.autograd.grad((spikes, v), x, (torch.linspace(-1, 1, x.numel()).view_as(x), torch.ones_like(v)))
    return dict(spikes=spikes.detach(), v=v.detach(), dx=dx)


def checks():
    """name -> (function of the backend, tolerance of its gradients)."""
    found = {f"table: {case}": (lambda backend, case=case: run(case, backend), tolerance(case)) for case in TABLE}
    for options in THRESHOLD_ALONE:
        found[f"threshold: {options}"] = (lambda backend, options=options: threshold_alone(options, backend), 0)
    for name, *numbers in SURROGATES:
        for reset in RESETS if name != "sigmoid" else ():
            options = dict(surrogate=surrogate.BY_NAME[name](*numbers), **reset)
            found[f"extreme: {options}"] = (lambda backend, options=options: extreme(options, backend), 0)
    for truncate in (None, (5, 2)):
        found[f"integrator: {truncate}"] = (lambda backend, truncate=truncate: integrator(truncate, backend), 0)
    for options in (*STATES, *({**o, "truncate": (18, 17)} for o in STATES)):
        found[f"state: {options}"] = (lambda backend, options=options: forward_state(options, 37, backend), 0)
    found["without grad"] = (without_grad, 0)
    return found


def round_to_bfloat16():
    """Make Triton's interpreter round float32 to bfloat16 as a GPU does; it truncates."""
    from triton.runtime import interpreter

    def cast(self, source, dtype, plain=interpreter.InterpreterBuilder.cast_impl):
        if source.dtype.scalar == triton.language.float32 and dtype.scalar == triton.language.bfloat16:
            rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.int16).numpy().view("uint16")
            return interpreter.TensorHandle(rounded, dtype.scalar)
        return plain(self, source, dtype)

    interpreter.InterpreterBuilder.cast_impl = cast


def interpret(checks):
    """Run them here; print, as JSON, the name of each with what is wrong, or None."""
    round_to_bfloat16()
    for name in ("new_empty", "new_empty_strided"):
        plain = getattr(torch.Tensor, name)
        setattr(torch.Tensor, name, lambda *args, plain=plain, **kwargs: poison(plain(*args, **kwargs)))
    wrong = {}
    for name, (function, bound) in checks.items():
        try:
            assert_same(function("triton"), function("reference"), bound)
            wrong[name] = None
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(wrong))


@pytest.fixture(scope="module")
def interpreted(request):
    """What the test file prints as a script, in the interpreter's process."""
    paths = [str(Path(__file__).parent), str(Path(fastlif.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, request.path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", checks())
def test_interpreted(name, interpreted):
    assert interpreted[name] is None, interpreted[name]


@pytest.mark.skipif(INTERPRETER, reason="TRITON_INTERPRET=1 stands in the environment")
def test_reasons():
    (why,) = backend.reasons(torch.device("cpu"), F32)
    assert "CUDA" in why and "TRITON_INTERPRET=1" in why
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        fastlif.lif(torch.zeros(2, 3), backend="triton")


def test_without_triton():
    script = (
        "import sys; sys.modules['triton'] = None; import torch, fastlif; from fastlif.ops import triton;"
        "print(*triton.reasons(torch.device('cpu'), torch.float32), sep='|')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    missing, device = done.stdout.split("|")
    assert "cannot be imported" in missing and "CUDA" in device


@pytest.fixture
def launches(monkeypatch):
    """The (kernel, arguments) of every launch, which is not carried out."""
    if INTERPRETER:
        pytest.skip("TRITON_INTERPRET=1 stands in the environment: kernels are not compiled")
    found = []
    monkeypatch.setattr(backend, "launch", lambda kernel, call, arguments: found.append((kernel, arguments)))
    monkeypatch.setattr(backend, "reasons", lambda device, dtype: [])
    return found


def launch(options, dtype, learned=(), steps=40, neurons=4096, autocast=None):
    """Have forward and backward launched."""
    compute = F64 if dtype == F64 else F32
    params = {name: torch.full((64, 1), 0.7, dtype=compute).requires_grad_() for name in learned}
    x = torch.zeros(steps, 64, neurons // 64, dtype=dtype).requires_grad_()
    v0 = torch.zeros(64, neurons // 64, dtype=compute).requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        spikes, v = fastlif.lif(x, v0, **params, **options, backend="triton")
    torch.autograd.backward((spikes, v), (torch.zeros_like(spikes), torch.zeros_like(v)))


def specialise(kernel, arguments):
    """(signature, constants, attributes) that Triton derives from a launch's arguments."""
    types = {F64: "fp64", F32: "fp32", BF16: "bf16", F16: "fp16", torch.uint8: "u8"}
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        own = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (own and isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[(place,)] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{types[value.dtype]}"
            aligned = value.data_ptr() % 16 == 0
        elif parameter.annotation_type:
            signature[name], aligned = parameter.annotation_type, False
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            aligned = own and value % 16 == 0
        if aligned:
            attributes[(place,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compiled(kernel, arguments, path):
    """(PTX, SASS, bytes of stack and local memory) for sm_90."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel, *specialise(kernel, arguments))
    asm = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=backend.options(arguments)).asm
    path.write_bytes(asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

    def dump(what):
        return subprocess.run([tool, what, path], capture_output=True, text=True, check=True).stdout

    stack, local = re.search(r"STACK:(\d+) .*LOCAL:(\d+)", dump("--dump-resource-usage")).groups()
    return asm["ptx"], dump("--dump-sass"), int(stack) + int(local)


def assert_lean(kernel, arguments, other, path):
    """No spills, accesses of 16 bytes and `other` widths, and nothing that rounds otherwise than written."""
    ptx, sass, spilled = compiled(kernel, arguments, path)
    assert spilled == 0
    assert not re.findall(r"fma\.rn\.f32|\.ftz|div\.full|div\.approx|(?:add|sub|mul)\.f32", ptx)
    accesses = re.findall(r"(LDG|STG)\.E((?:\.\w+)*)", sass)
    assert {kind for kind, width in accesses if ".128" in width} == {"LDG", "STG"}
    widths = {next((bits for bits in ("128", "64", "16", "8") if bits in width), "32") for _, width in accesses}
    assert widths - {"128"} <= other, accesses


ATAN, SIGMOID = dict(surrogate="atan"), dict(surrogate="sigmoid", detach_reset=True)
ALL = ("decay", "gain", "threshold")
VARIANTS = {  # options, learned, access widths beside 16 bytes: of bit planes, codes, and parameters before the loop
    "triangle": (dict(), (), set()),
    "wide-triangle": (dict(surrogate=surrogate.Triangle(0.7), threshold=0.7), (), set()),
    "delayed": (dict(reset_delay=True, **ATAN), (), set()),
    "hard-atan": ({**HARD, **ATAN}, (), set()),
    "hard-sigmoid": ({**HARD, **SIGMOID}, (), set()),
    "integrate": (dict(reset="none", surrogate="fast_sigmoid"), (), set()),
    "truncated": (dict(truncate=(20, 7)), (), set()),
    "bits": (dict(surrogate="rectangle"), (), {"8"}),
    "spikes": (dict(reset="hard", detach_reset=True, surrogate="pass_through"), (), {"8"}),
    "code": ({**HARD, **COMPACT}, (), {"32", "64"}),
    "learned": ({**HARD, "surrogate": "fast_sigmoid"}, ALL, {"32"}),
    "learned-delayed": (dict(reset_delay=True, truncate=(40, 20), **ATAN), ALL, {"32"}),
}


@pytest.mark.parametrize("dtype", (F32, BF16, F16), ids=("float32", "bfloat16", "float16"))
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled(variant, dtype, launches, tmp_path):
    options, learned, other = VARIANTS[variant]
    launch(options, dtype, learned)
    assert [kernel.fn.__name__ for kernel, _ in launches] == ["lif_fwd_kernel", "lif_bwd_kernel"]
    for kernel, arguments in launches:
        assert_lean(kernel, arguments, other, tmp_path / "cubin")


@pytest.mark.parametrize("learned", ((), ALL), ids=("plain", "learned"))
def test_compiled_mixed_and_double(learned, launches, tmp_path):
    """float32 x with bfloat16 spikes, and float64."""
    launch(HARD, F32, learned, autocast=BF16)
    launch({**HARD, **ATAN}, F64, learned)
    for kernel, arguments in launches:
        ptx, _, spilled = compiled(kernel, arguments, tmp_path / "cubin")
        assert spilled == 0
        assert not re.findall(r"fma\.rn|\.ftz|div\.full|div\.approx|(?:add|sub|mul)\.f(?:32|64)", ptx)


@pytest.mark.parametrize("variant", ("triangle", "truncated", "bits", "spikes", "code"))
def test_compiled_without_steps(variant, launches, tmp_path):
    """T = 0 compiles, too: what the loop over time would read of the state must be there, if empty."""
    options, learned, _ = VARIANTS[variant]
    launch(options, F32, learned, steps=0)
    for kernel, arguments in launches:
        compiled(kernel, arguments, tmp_path / "cubin")


def test_no_compilation_per_size(launches):
    """Every T beyond the few held in registers, and every N of one divisibility, run the same binary."""
    seen = set()
    for steps in (5, 8, 16, 17, 64, 1000):
        for neurons in (64 * 16, 64 * 80):
            launches.clear()
            launch(HARD, F32, ALL, steps, neurons)
            seen |= {repr(specialise(*found)) for found in launches}
    assert len(seen) == 2


if __name__ == "__main__":
    interpret(checks())
