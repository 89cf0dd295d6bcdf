"""The CUDA kernels without a GPU: emulated by tests/emulation.h, against the reference, bit for bit."""

from itertools import product
from random import Random

import emulation
import pytest
import test_backends
import torch
from cases import CASES, COMPACT, DELAYED, DTYPES, HARD, RESETS, SOFT, SURROGATES, Case, assert_same, run, tolerance
from hypothesis import given
from test_channels import LAYOUTS, right, steps

import fastlif
from fastlif import batch_norm
from fastlif.functional import run_emitting
from fastlif.ops import backends
from fastlif.ops.call import channel_stride, matrix
from fastlif.ops.state import Keep, Layout


@pytest.fixture(scope="module")
def emulated(built):
    backend = emulation.Emulated(built("emulated", emulation.build))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends.BACKENDS, "emulated", backend)
        yield "emulated"


PACKS = [
    Case({**o, "truncate": k}, (19, n), d, learned=learned, v0=n != 1000, autocast=a)
    for o, k in product((SOFT, HARD, DELAYED, {**HARD, **COMPACT}, dict(reset="hard", **SOFT)), (None, 3, (7, 3)))
    for n, (d, a), learned in (
        (1000, (torch.float32, None), "none"),
        (1000, (torch.float32, torch.bfloat16), "scalar"),
        (1, (torch.float32, torch.float16), "none"),
        (1028, (torch.float32, None), "none"),
        (1025, (torch.bfloat16, None), "none"),
        (1024, (torch.bfloat16, None), "none"),
        (2064, (torch.float16, None), "each"),
        (7, (torch.float64, None), "channel"),
        (1026, (torch.float64, None), "none"),
    )
    if not (learned != "none" and o.get("state") == "compact")
]


@pytest.mark.parametrize("case", [*CASES, *PACKS], ids=str)
def test_table(case, emulated):
    assert_same(run(case, emulated), run(case, "reference"), tolerance(case))


@given(case=test_backends.random_cases())
def test_random(case, emulated):
    assert_same(run(case, emulated), run(case, "reference"), tolerance(case))


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: "-".join(map(str, s)))
def test_nan_and_infinity(surrogate, reset, emulated):
    test_backends.test_nan_and_infinity(surrogate, reset, ("cpu", emulated))


@pytest.mark.parametrize("state", ("exact", "compact"))
@pytest.mark.parametrize("exponent", (-70, -61, 61, 70))
def test_windows_of_any_width(exponent, state, emulated):
    test_backends.test_windows_of_any_width(exponent, state, ("cpu", emulated))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("options", (SOFT, HARD), ids=str)
@pytest.mark.parametrize("shifted", ("x", "v0", "gs", "gv"))
def test_anywhere_in_memory(shifted, options, dtype, emulated):
    test_backends.test_anywhere_in_memory(shifted, options, dtype, ("cpu", emulated))


PLACES = (
    ((5, 2, 3, 4, 5), "contiguous"),  # 20 neurons a channel: packs of 4 share one, packs of 8 do not
    ((5, 2, 3, 4, 5), "channels_last"),
    ((18, 1, 8, 4, 4), "contiguous"),
    ((18, 1, 8, 4, 4), "channels_last"),  # packs of a channel each, side by side
    ((17, 2, 20, 3, 3), "contiguous"),  # packs that reach over a channel's end
    ((17, 2, 20, 3, 3), "channels_last"),
    ((33, 2, 3, 35), "contiguous"),
    ((20, 3, 7), "contiguous"),
    ((20, 2, 24), "contiguous"),
    ((4, 3, 1, 5), "contiguous"),
    ((0, 2, 3, 4), "contiguous"),
)


def normal(index, place, dtype, truncate):
    """A call of batch_norm.run: what is not said is drawn, the same for the same index."""
    draw = Random(index)
    reset = draw.choice([*RESETS, {"reset": "hard", "detach_reset": True}, {"reset": "soft", "detach_reset": True}])
    surrogate, *numbers = draw.choice([s for s in SURROGATES if s[0] != "sigmoid"])
    learned = draw.choice(((), (), ("decay",), ("threshold",), ("decay", "gain", "threshold")))
    options = {**reset, "truncate": truncate, "fire_on_equal": draw.random() < 0.5, "bias": draw.choice((0.0, 0.2))}
    options["surrogate"] = fastlif.surrogate.BY_NAME[surrogate](*numbers)
    training, reached = draw.random() < 0.7, draw.choice(("both", "both", "spikes", "v"))
    wants_y, per_channel = draw.random() < 0.9, draw.random() < 0.5
    return place, dtype, options, learned, per_channel, training, reached, wants_y


def run_normal(backend, place, dtype, options, learned, per_channel, training, reached, wants_y, device="cpu"):
    """Every output and gradient by name."""
    (shape, layout), generator = place, torch.Generator().manual_seed(1)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(device)

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    y = (randn(*shape) * 1.5 + 0.4).to(dtype)
    if layout == "channels_last":
        y = y.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    channels, aside = shape[2], (1,) * (len(shape) - 3)
    size = (channels, *aside) if per_channel else ()
    middle = {"decay": 0.6, "gain": 0.9, "threshold": 0.9}
    own = {name: (randn(size).tanh() * 0.3 + middle[name]).to(compute).requires_grad_() for name in learned}
    leaves = {
        "y": y.requires_grad_(wants_y),
        "weight": (randn(channels) * 0.5 + 1).to(compute).requires_grad_(),
        "bias": (randn(channels) * 0.3).to(compute).requires_grad_(),
        "v0": randn(shape[1:]).to(compute).requires_grad_(),
        **own,
    }
    running = (torch.full((channels,), value, dtype=compute, device=device) for value in (0.1, 2.0))
    neuron = fastlif.Neuron(**{"decay": 0.7, **dict.fromkeys(learned), **options})
    spikes, v, bits = batch_norm.run(
        neuron, leaves["y"], *running, *(leaves[name] for name in ("weight", "bias", "v0")),
        *(own.get(name) for name in middle), training=training, momentum=0.1, eps=1e-5, backend=backend,
    )  # fmt: skip
    arriving = {"spikes": randn(shape).to(spikes.dtype), "v": randn(shape[1:]).to(v.dtype)}
    outputs = [(o, arriving[n]) for n, o in (("spikes", spikes), ("v", v)) if reached in ("both", n)]
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads = torch.autograd.grad([o for o, _ in outputs], list(wanted.values()), [g for _, g in outputs])
    return {"spikes": spikes.detach(), "v": v.detach(), "bits": bits, **dict(zip(wanted, grads, strict=True))}


@pytest.mark.parametrize("truncate", (None, 3, (4, 2)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("place", PLACES, ids=lambda p: f"{'x'.join(map(str, p[0]))}-{p[1]}")
def test_batch_norm(place, dtype, truncate, emulated):
    for index in range(6):
        call = normal(index, place, dtype, truncate)
        assert_same(run_normal(emulated, *call), run_normal("reference", *call))


FORMATS = {
    "nothing": ({}, False),
    "spikes": ({"surrogate": ("pass_through", 0.8), "reset": "hard", "detach_reset": True}, True),
    "bits": (SOFT, True),
    "code": (COMPACT, True),
    "input": (HARD, True),
    "output": ({"spiking": False}, True),
}


@pytest.mark.parametrize("keep", FORMATS)
@pytest.mark.parametrize("truncate", (None, (4, 2)), ids=str)
@pytest.mark.parametrize("shape", ((5, 24), (18, 12), (7, 3, 7), (3, 1)), ids=str)
def test_emitted_bits(shape, truncate, keep, emulated):
    """The spikes again, a bit each, and the gradients that these drive, whatever else is kept."""
    named, needs_grad = FORMATS[keep]
    named = {"decay": 0.6, "truncate": truncate, **named}
    surrogate, *numbers = named.pop("surrogate", ("triangle",))
    neuron = fastlif.Neuron(**named, surrogate=fastlif.surrogate.BY_NAME[surrogate](*numbers))
    for dtype in DTYPES:
        x = (torch.randn(shape) * 0.9 + 0.4).to(dtype).requires_grad_(needs_grad)
        found = []
        for backend in (emulated, "reference"):
            spikes, v, bits = run_emitting(neuron, x, backend=backend)
            outcome = {"spikes": spikes.detach(), "v": v.detach(), "bits": bits}
            if needs_grad:
                (outcome["dx"],) = torch.autograd.grad(spikes.double().cos().sum() + v.sum(), x)
            found.append(outcome)
        assert_same(*found)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("shape", ((1, 1), (3, 8), (5, 13), (4, 256), (2, 4099), (3, 0)), ids=str)
def test_spikes_as_bits_and_back(shape, dtype, emulated):
    """Also rows that do not lie one behind the other, and beside what is neither 0 nor 1."""
    operators = backends.BACKENDS[emulated].operators
    for space in (0, 3, 16):
        x = (torch.rand(shape[0], shape[1] + space) < 0.3).to(dtype)[:, : shape[1]]
        plane = torch.full((shape[0], (shape[1] + 7) // 8 + space), 255, dtype=torch.uint8)[:, : (shape[1] + 7) // 8]
        operators.pack_bits(x, plane)
        assert plane.equal(torch.ops.fastlif.pack_spikes(x.contiguous(), shape[0]))
        again = torch.full((shape[0], shape[1] + space), torch.nan, dtype=dtype)
        operators.unpack_bits(plane, again[:, : shape[1]])
        assert again[:, : shape[1]].equal(x) and again[:, shape[1] :].isnan().all()
    x = torch.tensor([[0.0, -0.0, torch.nan, -torch.inf, 2**-14, -1.0]], dtype=dtype)
    operators.pack_bits(x, plane := torch.empty(1, 1, dtype=torch.uint8))
    assert plane.item() == 0b111100


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("truncate", (None, (20, 18)), ids=str)
@pytest.mark.parametrize("shape", ((37, 24), (18, 12), (20, 21)), ids=str)
def test_bits_drive_backward(shape, truncate, reset, emulated):
    """Also where they are not the spikes of the membranes as recomputed."""
    neuron = fastlif.Neuron(decay=0.6, surrogate="atan", truncate=truncate, **reset)
    for dtype in DTYPES:
        layout = Layout(shape, neuron.windows, Keep.INPUT, dtype)
        x, gs = (torch.randn(shape).to(dtype) for _ in range(2))
        gv, v0 = (torch.randn(shape[1:]).to(layout.compute) for _ in range(2))
        call = v0, None, None, None, neuron.values, neuron.options, int(Keep.INPUT), True, dtype, "reference"
        _, _, state, _ = torch.ops.fastlif.lif_forward(x, *call)
        other = torch.randint(256, (shape[0], layout.plane), dtype=torch.uint8)
        found = []
        for bits, backend in ((other, emulated), (other, "cpu"), (other, "reference"), (None, "reference")):
            grads = torch.ops.fastlif.lif_backward(
                gs, gv, x if layout.schedule.whole else None, v0, torch.tensor(0.6, dtype=layout.compute), None, None,
                state, bits, shape, x.stride(), dtype, neuron.values, neuron.options, int(Keep.INPUT),
                [True, True, False, False], backend,
            )  # fmt: skip
            found.append(dict(zip(("gx", "gv0", "gdecay"), grads, strict=False)))
        assert_same(found[0], found[2])
        assert_same(found[1], found[2])
        if reset["reset"] != "none":
            assert not found[0]["gx"].equal(found[3]["gx"])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS, ids=str)
@pytest.mark.parametrize("count", (1, 3, 70))
def test_sums_over_channels(count, shape, layout, dtype, emulated):
    """In more parts than there is anything for, too."""
    operators, y = backends.BACKENDS[emulated].operators, steps(shape, layout, dtype)
    for rows in (1, 2):
        parts = torch.full((count, rows, shape[2]), torch.nan, dtype=torch.float64)
        operators.native_channel_sums(matrix(y), channel_stride(y.shape, y.stride()), parts)
        torch.testing.assert_close(parts.sum(0), right(y)[:rows])
        again = torch.full((count, 2, shape[2]), torch.nan, dtype=torch.float64)[:, :rows]
        operators.native_channel_sums(matrix(y), channel_stride(y.shape, y.stride()), again)
        assert again.equal(parts)


@pytest.mark.parametrize("compute", (torch.float32, torch.float64))
def test_formulas_of_channels(compute, emulated):
    sums = torch.randn(37, 2, 5, dtype=torch.float64)
    sums[:, 1] = sums[:, 1].abs() * 100
    whole = torch.zeros(1, 2, 5, dtype=torch.float64)  # added up as 32 lanes do, then by halves
    lanes = torch.stack([sums[i::32].sum(0) for i in range(32)])
    for distance in (1, 2, 4, 8, 16):
        lanes = lanes + lanes[[i ^ distance for i in range(32)]]
    whole[0] = lanes[0]
    weight, bias = torch.randn(2, 5, dtype=compute)
    found = []
    for operators, s in ((backends.BACKENDS[emulated].operators, sums), (torch.ops.fastlif, whole)):
        statistics, affine = torch.empty(3, 5, dtype=compute), torch.empty(2, 5, dtype=compute)
        operators.native_statistics(s, 60.0, 1e-5, *statistics)
        operators.native_affine(weight, bias, *statistics[:2], *affine)
        gradients = [torch.empty(5, dtype=compute) for _ in range(4)]
        operators.native_gradients(s, 60.0, statistics[1], affine[0], *gradients)
        found.append([statistics, affine, *gradients])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
