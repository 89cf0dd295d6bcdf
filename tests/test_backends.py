"""Every backend that runs here against the reference: spikes, membranes and gradients bit for bit."""

import os
import subprocess
import sys

import pytest
import torch
from cases import CASES, COMPACT, HARD, LAYOUTS, RESETS, SOFT, SURROGATES, Case, assert_same, norm_error, run, tolerance
from hypothesis import given
from hypothesis import strategies as st

import fastlif
from fastlif.ops import backends

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
PLACES = {f"{device}-{backend}": (device, backend) for device in DEVICES for backend in backends.BACKENDS}
WHY_NOT = {name: backends.reasons(b, torch.device(d), torch.float32) for name, (d, b) in PLACES.items()}
HERE = [name for name, why in WHY_NOT.items() if not why]


@pytest.fixture(params=HERE, scope="module")
def place(request):
    """(device, backend) that can run here."""
    return PLACES[request.param]


@pytest.mark.parametrize("name", [name for name, why in WHY_NOT.items() if why])
def test_missing(name):
    pytest.skip("; ".join(WHY_NOT[name]))


def check(case: Case, place):
    device, backend = place
    got, want = run(case, backend, device), run(case, "reference")
    if device == "cuda" and case.layout == "expanded":  # torch sums dx over the steps in another order there
        assert norm_error(got["dleaf"].cpu(), want["dleaf"]) <= 4 * torch.finfo(case.dtype).eps
        want["dleaf"] = got["dleaf"]
    summed = device == "cuda" and case.dtype == torch.float64 and case.learned in ("scalar", "channel")
    assert_same(got, want, max(tolerance(case), 1e-12 * summed))  # a GPU sums over neurons in another order
    assert_same(run(case, backend, device), got)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case, place):
    check(case, place)
    assert all(g.isfinite().all() for g in run(case, place[1], place[0]).values())  # nothing of the poison is left


@pytest.mark.parametrize("learned", ("none", "channel", "each"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(layout, dtype, learned, place):
    """Strides change no value; the order of a sum over neurons may differ in its last bit."""
    device, backend = place
    options = {"reset": "hard", "v_reset": -0.1, "truncate": (7, 5)}
    case = Case(options, (18, 2, 6, 4, 5), dtype, layout=layout, learned=learned)
    got, want = run(case, backend, device), run(case, "reference", copy=True)
    for name in want.keys() - {"dleaf"}:
        torch.testing.assert_close(got[name].cpu(), want[name], rtol=1e-6 if learned == "channel" else 0, atol=0)


@st.composite
def random_cases(draw):
    reset = draw(st.sampled_from(RESETS))
    surrogate = draw(st.sampled_from(SURROGATES))
    k1 = draw(st.integers(1, 40))
    learned = draw(st.sampled_from(("none", "none", "scalar", "channel", "each")))
    number = st.floats(-2, 2, width=32)
    compact = surrogate[0] in ("triangle", "rectangle") and learned == "none" and draw(st.booleans())
    options = dict(
        **reset,
        detach_reset=draw(st.booleans()),
        surrogate=surrogate,
        fire_on_equal=draw(st.booleans()),
        truncate=draw(st.sampled_from((None, k1, (k1, draw(st.integers(1, k1)))))),
        bias=draw(number),
        state="compact" if compact else "exact",
    )
    if reset["reset"] == "soft" and draw(st.booleans()):
        options["reset_amount"] = draw(number)
    if learned == "none":
        options |= {"decay": draw(st.floats(0, 1, width=32)), "gain": draw(number), "threshold": draw(number)}
    return Case(
        options,
        (draw(st.integers(0, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 70))),
        draw(st.sampled_from((torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16))),
        draw(st.sampled_from([k for k in LAYOUTS if k != "channels_last"])),
        learned,
        draw(st.booleans()),
        draw(st.sampled_from(("plain", "plain", "expanded", "transposed", "spikes", "membrane"))),
        grid=draw(st.booleans()),
    )


@given(case=random_cases())
def test_random(case, place):
    check(case, place)


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: "-".join(map(str, s)))
def test_nan_and_infinity(surrogate, reset, place):
    device, backend = place
    values = torch.tensor([0.7, torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-42, -0.0])
    base = torch.cartesian_prod(*[values] * 3).T.contiguous()

    def outcome(backend, device, state):
        x = base.to(device).requires_grad_()
        name, *numbers = surrogate
        options = dict(**reset, surrogate=fastlif.surrogate.BY_NAME[name](*numbers), state=state, backend=backend)
        spikes, v = fastlif.lif(x, **options)
        g = torch.linspace(-1, 1, x.numel()).to(device).view_as(x)  # rounded otherwise on a GPU
        (gx,) = torch.autograd.grad((spikes, v), x, (g, torch.ones_like(v)))
        return {"spikes": spikes.detach(), "v": v.detach(), "dx": gx}

    for state in ("exact", "compact") if surrogate[0] in ("triangle", "rectangle") else ("exact",):
        got, want = outcome(backend, device, state), outcome("reference", "cpu", state)
        for name in want:
            close = (
                {"rtol": 1e-5, "atol": 1e-12} if name == "dx" and surrogate[0] == "sigmoid" else {"rtol": 0, "atol": 0}
            )
            torch.testing.assert_close(got[name].cpu(), want[name], equal_nan=True, **close)


@pytest.mark.parametrize("state", ("exact", "compact"))
@pytest.mark.parametrize("exponent", (-70, -61, 61, 70))
def test_windows_of_any_width(exponent, state, place):
    """Powers of two, by which a division may be a product, far from one."""
    check(Case({**HARD, "surrogate": ("triangle", 2.0**exponent, 1.0), "state": state}, grid=True), place)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
def test_subnormal_numbers_as_zero(dtype, place):
    """What is not above the threshold, a subnormal number being 0 with torch.set_flush_denormal(True)."""
    device, backend = place
    if device != "cpu" or not torch.set_flush_denormal(True):
        pytest.skip("needs a CPU that has this mode")
    try:
        tiny = torch.finfo(dtype).tiny
        x = torch.tensor([0, -0.0, tiny / 4, -tiny / 4, tiny, -tiny, 2 * tiny, torch.inf, torch.nan], dtype=dtype)
        x = x.repeat(3, 30)
        for number in (0.0, -0.0, tiny / 8, -tiny / 8, tiny, -tiny, torch.inf):
            for threshold in (torch.tensor(number, dtype=dtype), *([number] if number < 1 else [])):
                options = {"threshold": threshold, "fire_on_equal": False, "reset": "none", "decay": 0.0}
                want, _ = fastlif.lif(x, **options, backend="reference")
                assert fastlif.lif(x, **options, backend=backend)[0].equal(want), (number, threshold)
    finally:
        torch.set_flush_denormal(False)


def test_hard_reset_selects_after_infinity(place):
    device, backend = place
    x = torch.tensor([[torch.inf], [0.0], [2.0]], device=device)
    spikes, v = fastlif.lif(x, reset="hard", backend=backend)
    assert spikes.flatten().tolist() == [1, 0, 1] and v.tolist() == [0]
    _, v = fastlif.lif(x, reset="soft", backend=backend)
    assert v.tolist() == [torch.inf]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("options", (SOFT, HARD), ids=str)
@pytest.mark.parametrize("shifted", ("x", "v0", "gs", "gv"))
def test_anywhere_in_memory(shifted, options, dtype, place):
    """Tensors that begin, and steps that lie, where no access of 16 bytes can reach."""
    device, backend = place
    options = {**options, "surrogate": fastlif.surrogate.Rectangle(1.5)}
    inputs = {"x": torch.randn(19, 1024).to(dtype), "v0": torch.randn(1024)}
    inputs |= {"gs": torch.randn(19, 1024).to(dtype), "gv": torch.randn(1024)}

    def outcome(backend, device, place):
        x, v0, gs, gv = (place(name, values.to(device)) for name, values in inputs.items())
        outputs = fastlif.lif(x.requires_grad_(), v0.requires_grad_(), **options, backend=backend)
        grads = torch.autograd.grad(outputs, (x, v0), (gs, gv))
        return dict(zip(("spikes", "v", "dx", "dv0"), (*(o.detach() for o in outputs), *grads), strict=True))

    def begins_late(name, values):
        moved = torch.empty(values.numel() + 1, dtype=values.dtype, device=values.device)[1:].view_as(values)
        return moved.copy_(values) if name == shifted else values

    def has_gaps(name, values):
        wider = torch.empty(len(values), 1025, dtype=values.dtype, device=values.device)[:, :1024]
        return wider.copy_(values) if name == shifted else values

    want = outcome("reference", "cpu", lambda name, values: values)
    for away in (begins_late, has_gaps) if inputs[shifted].dim() == 2 else (begins_late,):
        assert_same(outcome(backend, device, away), want)


@pytest.mark.parametrize("options", (SOFT, {**HARD, **COMPACT}), ids=str)
def test_threads_change_nothing(options, place):
    case = Case(options, (5, 200_003))
    threads = torch.get_num_threads()
    want = run(case, place[1], place[0])
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert_same(run(case, place[1], place[0]), want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif("cpu-cpu" not in HERE, reason="; ".join(WHY_NOT["cpu-cpu"]))
@pytest.mark.parametrize("isa", ("plain", "avx2"))
def test_instruction_sets(isa):
    """The narrower loops, which a machine with wider vectors runs only if told to, on a part of the table."""
    script = (
        "from cases import CASES, assert_same, run, tolerance\n"
        "for case in CASES[::5]:\n"
        "    assert_same(run(case, 'cpu'), run(case, 'reference'), tolerance(case))\n"
    )
    environment = {**os.environ, "FASTLIF_ISA": isa, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
