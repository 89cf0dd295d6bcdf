"""The Triton kernels with batch norm before the neuron and with spikes as bits: as test_triton.py tests the others."""

import pytest
import test_channels
import torch
from cases import DELAYED, HARD, SOFT, Case, make_params, make_x, tolerance
from test_triton import (  # noqa: F401
    ALL,
    ATAN,
    BF16,
    F16,
    F32,
    F64,
    INTERPRETER,
    assert_lean,
    compiled,
    interpret,
    interpreted,
    launches,
)

from fastlif import batch_norm, ops
from fastlif.neuron import Neuron
from fastlif.ops import state
from fastlif.ops.call import channel_stride, matrix
from fastlif.surrogate import BY_NAME

DETACHED = {**HARD, "detach_reset": True}
TRUNCATIONS = (3, (4, 2), (20, 18))
TABLE = [
    *(Case(o, (17, 2, 3, 5)) for o in (SOFT, HARD, DELAYED)),
    *(Case(o, (33, 1, 5, 7), learned="channel") for o in (SOFT, HARD, DELAYED)),
    *(Case({**o, "truncate": k}, (33, 2, 3, 5)) for o in (SOFT, DETACHED, DELAYED) for k in TRUNCATIONS),
    *(Case({**HARD, "truncate": k}, (33, 2, 3, 3), learned="each") for k in TRUNCATIONS),
    *(Case(o, (17, 2, 6, 4, 5), d, "channels_last") for o in (HARD, DELAYED) for d in (F32, BF16, F16, F64)),
    *(Case(HARD, (17, 2, 6, 4, 5), learned="channel", layout=k) for k in ("channels_last", "expanded", "sliced_time")),
    *(Case(HARD, s) for s in ((0, 2, 3), (4, 1, 1, 9), (2, 2, 700), (3, 2, 3, 0))),
    Case({"surrogate": ("sigmoid", 4.0)}, (17, 2, 3, 5), BF16, gradient="membrane"),
]  # fmt: skip


def neuron_of(options, learned=()):
    options = {**options, **dict.fromkeys(learned)}
    if isinstance(options.get("surrogate"), tuple):
        name, *numbers = options["surrogate"]
        options["surrogate"] = BY_NAME[name](*numbers)
    return Neuron(**options)


def gradient_like(p, seed):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)


def normalized(case, training, emit, backend):
    """Every output and gradient of batch norm and neurons as one operator."""
    leaf, y = make_x(case)
    params = make_params(case)
    compute = F64 if case.dtype == F64 else F32
    channels = case.shape[2]
    weight, bias = (torch.linspace(low, 1, channels, dtype=compute).requires_grad_() for low in (-1.5, 0.2))
    running = [torch.full((channels,), value, dtype=compute) for value in (0.1, 1.5)]
    v0 = gradient_like(torch.empty(case.shape[1:], dtype=compute), 3).requires_grad_()
    spikes, v, bits = batch_norm.run(
        neuron_of(case.options, params), y, *running, weight, bias, v0, **params, training=training, momentum=0.1,
        eps=1e-5, backend=backend, emit=emit,
    )  # fmt: skip
    inputs = {"leaf": leaf, "y": y, "weight": weight, "bias": bias, "v0": v0, **params}
    outputs = [v] if case.gradient == "membrane" else [spikes, v]
    arrived = [gradient_like(p, seed) for seed, p in enumerate(outputs, 4)]
    grads = torch.autograd.grad(outputs, list(inputs.values()), arrived)
    found = {f"d{name}": g for name, g in zip(inputs, grads, strict=True)}
    return {"spikes": spikes.detach(), "v": v.detach(), **found, **({"bits": bits} if emit else {})}


def other_bits(options, windows, sums_only, backend):
    """All that backward gives when the spikes are those of slightly different y, those of y, or compared anew."""
    neuron = neuron_of({**options, "truncate": windows})
    y = torch.randn(35, 2, 6, 7, generator=torch.Generator().manual_seed(1)).mul(1.5)
    gs, gv, none = gradient_like(y, 2), gradient_like(y[0], 3), (None,) * 3
    lay = state.Layout(y.shape, neuron.windows, state.Keep.INPUT, y.dtype, True)
    scale, shift, *through = torch.rand(5, 6, generator=torch.Generator().manual_seed(4)).add(0.2).unbind()

    def forward(y):
        outputs = ops.empty_outputs(y, y.dtype, True, lay)
        ops.fill_forward(lay, y, None, none, (scale, shift), neuron.values, neuron.options, True, backend, outputs)
        return outputs[2:]

    def backward(bits):
        needs = (not sums_only, *(True,) * 6)
        outputs = (torch.empty_like(y), *ops.empty_totals(y, y.shape, y.stride(), y.dtype, needs[1:]))
        inputs = gs, gv, y, None, none, (scale, shift), through, kept, bits
        ops.fill_backward(lay, inputs, y.shape, y.stride(), neuron.values, neuron.options, needs, backend, outputs)
        return outputs[sums_only:]

    kept, own = forward(y)
    other = forward(y + 0.1)[1]
    by_own, by_other, anew = backward(own), backward(other), backward(None)
    assert all(map(torch.equal, by_own, anew))
    assert not all(map(torch.equal, by_own, by_other)), "the bits drive nothing"
    return {f"{name} {i}": g for name, gs in (("own", by_own), ("other", by_other)) for i, g in enumerate(gs)}


def emitted(options, backend):
    """The bits of a neuron alone, all steps, and its gradient with the bits of another x."""
    neuron = neuron_of(options)
    x = torch.randn(35, 1030, generator=torch.Generator().manual_seed(1))
    keep = int(state.choose(neuron, True, False, False))
    call = (*(None,) * 4, neuron.values, neuron.options, keep, True, x.dtype, backend)
    spikes, v, kept, bits = torch.ops.fastlif.lif_forward(x, *call)
    assert bits.shape == (35, 129)
    found = dict(spikes=spikes, v=v, state=kept, bits=bits)
    if keep == state.Keep.INPUT:
        other = torch.ops.fastlif.lif_forward(x + 0.1, *call)[3]
        saved = x if neuron.windows[0] == neuron.windows[1] else None
        found["dx"] = torch.ops.fastlif.lif_backward(
            gradient_like(x, 2), None, saved, *(None,) * 4, kept, other, x.shape, x.stride(), x.dtype, neuron.values,
            neuron.options, keep, [False] * 4, backend,
        )[0]  # fmt: skip
    return found


def channel_sums(place, dtype, backend):
    """Sums over channels in parts, with squares and without."""
    y = test_channels.steps(*place, dtype)
    parts = torch.full((3, 2, place[0][2]), torch.nan, dtype=F64)
    if backend != "triton":
        return {"sums": test_channels.right(y)}
    inner = channel_stride(y.shape, y.stride())
    ops.triton.channel_sums(matrix(y), inner, alone := parts[:, 1:].clone())
    ops.triton.channel_sums(matrix(y), inner, parts)
    assert alone[:, 0].equal(parts[:, 0])
    return {"sums": parts.sum(0)}


def checks():
    """name -> (function of the backend, tolerance of its gradients)."""
    found = {}
    for number, case in enumerate(TABLE):
        for training, emit in ((True, number % 2 == 0), (False, number % 2 == 1)):
            a = (case, training, emit)
            found[f"{case}-{training=}-{emit=}"] = (lambda backend, a=a: normalized(*a, backend), tolerance(case))
    for options in (dict(), HARD, DELAYED, DETACHED):
        for windows in (None, (18, 17)):
            for alone in (False, True):
                a = (options, windows, alone)
                found[f"other bits: {a}"] = (lambda backend, a=a: other_bits(*a, backend), 0)
    for options in (dict(), HARD, SOFT, DELAYED, dict(surrogate="pass_through", reset="hard", detach_reset=True)):
        for windows in (None, (18, 3)):
            o = {**options, "truncate": windows}
            found[f"emitted: {o}"] = (lambda backend, o=o: emitted(o, backend), 0)
    for number, place in enumerate(test_channels.LAYOUTS):
        for dtype in (F32, (F64, BF16, F16)[number % 3]):
            found[f"sums: {place} {dtype}"] = (lambda backend, a=(place, dtype): channel_sums(*a, backend), 1e-12)
    return found


@pytest.mark.parametrize("name", checks())
def test_interpreted(name, interpreted):  # noqa: F811
    assert interpreted[name] is None, interpreted[name]


VARIANTS = {  # options, learned, whether spikes are emitted as bits
    "triangle": (dict(), (), False),
    "triangle-bits": (dict(), (), True),
    "delayed": (dict(reset_delay=True, **ATAN), (), False),
    "hard-atan-bits": ({**HARD, **ATAN}, (), True),
    "truncated-bits": (dict(truncate=(20, 7)), (), True),
    "learned": ({**HARD, "surrogate": "fast_sigmoid"}, ALL, False),
    "learned-bits": ({**HARD, "surrogate": "fast_sigmoid"}, ALL, True),
}


def launch(options, learned, emit, dtype):
    """Have forward and both passes of backward launched."""
    compute = F64 if dtype == F64 else F32
    params = {name: torch.full((64, 1), 0.7, dtype=compute).requires_grad_() for name in learned}
    y = torch.zeros(40, 2, 64, 64, dtype=dtype).requires_grad_()
    v0 = torch.zeros(2, 64, 64, dtype=compute).requires_grad_()
    weight, bias = (torch.ones(64, dtype=compute).requires_grad_() for _ in range(2))
    spikes, v, _ = batch_norm.run(
        neuron_of(options, learned), y, None, None, weight, bias, v0, **params, training=True, momentum=0.1, eps=1e-5,
        backend="triton", emit=emit,
    )  # fmt: skip
    torch.autograd.backward((spikes, v), (torch.zeros_like(spikes), torch.zeros_like(v)))


@pytest.mark.parametrize("dtype", (F32, BF16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled(variant, dtype, launches, tmp_path):  # noqa: F811
    options, learned, emit = VARIANTS[variant]
    launch(options, learned, emit, dtype)
    assert [arguments.get("gx") is None for _, arguments in launches] == [True, True, False]  # forward, sums, gradient
    for kernel, arguments in launches:  # 4 bytes of channels' numbers before the loop, a byte of bits
        assert_lean(kernel, arguments, {"32", "8"} if emit else {"32"}, tmp_path / "cubin")


@pytest.mark.skipif(INTERPRETER, reason="TRITON_INTERPRET=1 stands in the environment: kernels are not compiled")
@pytest.mark.parametrize("dtype", (F32, BF16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("inner", (1, 49, 4096))
@pytest.mark.parametrize("squares", (True, False))
def test_sums_compiled(squares, inner, dtype, monkeypatch, tmp_path):
    """No spills; sums rounded as written."""
    kernel, arguments = ops.triton.load()[0][2], {}

    def launch(*values, num_warps, enable_fp_fusion):
        arguments.update(zip(kernel.arg_names, values, strict=True))

    monkeypatch.setattr(ops.triton, "load", lambda: ((None, None, {(2 if inner == 1 else 64, 4): launch}), None))
    ops.triton.channel_sums(torch.empty(8, 64 * inner, dtype=dtype), inner, torch.empty(4, 1 + squares, 64, dtype=F64))
    ptx, _, spilled = compiled(kernel, arguments, tmp_path / "cubin")
    assert spilled == 0 and "fma.rn.f64" not in ptx


if __name__ == "__main__":
    interpret(checks())
