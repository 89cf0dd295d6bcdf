"""What tests/test_backends.py does not ask of a backend: every dtype, batch norm and bits; and of a GPU, repeated runs,
captured graphs, streams side by side and more than 2^31 elements. All bit for bit."""

import tempfile
from itertools import product
from pathlib import Path

import pytest
import torch
from cases import DTYPES, RESETS, SURROGATES, Case, assert_same, run
from test_backends import HERE, PLACES
from test_cuda import FORMATS, normal, run_normal
from test_cuda import PLACES as SHAPES

import fastlif
from fastlif.functional import run_emitting

FUSED = [name for name in HERE if not name.endswith("reference")]
KEPT = {  # what a layer keeps
    "bits": {"surrogate": "rectangle"},
    "code": {"state": "compact"},
    "input": {"reset": "hard"},
    "windows": {"truncate": (7, 3), "reset_delay": True, "surrogate": "atan"},
}
HUGE = 2**31 + 4096


@pytest.fixture(params=FUSED)
def place(request):
    """(device, backend) that can run here."""
    return PLACES[request.param]


@pytest.fixture(params=[name for name in FUSED if name.startswith("cuda")] or ["none"])
def gpu(request):
    """A backend of the GPU."""
    if request.param == "none":
        pytest.skip("no CUDA device")
    return PLACES[request.param][1]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("surrogate", [SURROGATES[i] for i in (1, 2, 5)], ids=lambda s: s[0])
@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
def test_every_dtype(reset, surrogate, dtype, place):
    device, backend = place
    case = Case({**reset, "surrogate": surrogate}, (19, 3, 24), dtype)
    assert_same(run(case, backend, device), run(case, "reference"))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES[:6], ids=lambda p: f"{'x'.join(map(str, p[0]))}-{p[1]}")
def test_batch_norm(shape, dtype, place):
    """Against the reference on the same device, whose own sums give the statistics."""
    device, backend = place
    for index, truncate in product(range(2), (None, (4, 2))):
        call = normal(index, shape, dtype, truncate)
        assert_same(run_normal(backend, *call, device=device), run_normal("reference", *call, device=device))


@pytest.mark.parametrize("keep", FORMATS)
def test_emitted_bits(keep, place):
    named = {"decay": 0.6, **FORMATS[keep][0]}
    surrogate, *numbers = named.pop("surrogate", ("triangle",))
    neuron = fastlif.Neuron(**named, surrogate=fastlif.surrogate.BY_NAME[surrogate](*numbers))
    for dtype, shape in product(DTYPES, ((18, 24), (7, 3, 7))):
        x = (torch.randn(shape) * 0.9 + 0.4).to(dtype)
        found = (run_emitting(neuron, x.to(d), backend=b) for d, b in (place, ("cpu", "reference")))
        assert_same(*(dict(zip(("spikes", "v", "bits"), outputs, strict=True)) for outputs in found))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_spikes_as_bits_and_back(dtype, place):
    device, _ = place
    for shape in ((3, 8), (5, 1, 13), (2, 4099)):
        x = (torch.rand(shape) < 0.3).to(dtype)
        plane = torch.ops.fastlif.pack_spikes(x.to(device), shape[0])
        assert plane.cpu().equal(torch.ops.fastlif.pack_spikes(x, shape[0]))
        again = torch.ops.fastlif.unpack_spikes(plane, shape, x.stride(), dtype)
        assert again.cpu().equal(x)


def outcome(x, gs, backend, options, learned=None):
    """Outputs and gradients of one call."""
    leaves = [x.detach().requires_grad_(), *([learned] if learned is not None else [])]
    parameters = {} if learned is None else {"decay": learned}
    spikes, v = fastlif.lif(leaves[0], **options, **parameters, backend=backend)
    grads = torch.autograd.grad(spikes, leaves, gs)
    return [spikes.detach(), v.detach(), *grads]


def same(got, want):
    return all(a.equal(b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("keep", KEPT)
def test_runs_repeat(keep, place):
    """Ten times the same bits, also of gradients summed over all neurons."""
    device, backend = place
    x, gs = (torch.randn(33, 4, 5003, device=device) for _ in range(2))
    decay = None if keep == "code" else torch.full((4, 1), 0.6, device=device).requires_grad_()
    first = outcome(x, gs, backend, KEPT[keep], decay)
    assert all(same(outcome(x, gs, backend, KEPT[keep], decay), first) for _ in range(9))


@pytest.mark.parametrize("keep", KEPT)
def test_a_captured_graph_replays(keep, gpu):
    """On other numbers than it was captured with."""
    x, gs = (torch.randn(20, 6, 1030, device="cuda") for _ in range(2))
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is compiled and loaded at the first call
        outcome(x, gs, gpu, KEPT[keep])
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outcome(x, gs, gpu, KEPT[keep])
    for _ in range(3):
        x.normal_()
        gs.normal_()
        graph.replay()
        torch.cuda.synchronize()
        assert same(captured, outcome(x, gs, gpu, KEPT[keep]))


def test_two_streams_at_once(gpu):
    """Each with its own data, not waiting for the other."""
    options = list(KEPT.values())
    data = [tuple(torch.randn(16, 1 << 18, device="cuda") for _ in range(2)) for _ in options]
    want = [outcome(*d, gpu, o) for d, o in zip(data, options, strict=True)]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = [[], []]
    for turn in range(8):
        for side, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                i = (turn + 2 * side) % len(options)
                found[side].append((i, outcome(*data[i], gpu, options[i])))
    torch.cuda.synchronize()
    assert all(same(got, want[i]) for i, got in found[0] + found[1])


@pytest.fixture
def alone():
    """Nobody else's test of this kind at the same time: each takes a good part of a GPU's memory."""
    fcntl = pytest.importorskip("fcntl")
    with (Path(tempfile.gettempdir()) / "fastlif-memory.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("keep", ("bits", "code", "input"))
@pytest.mark.parametrize("steps", (1, 3))
def test_more_elements_than_32_bits_count(steps, keep, gpu, alone):
    """Slices of neurons of the whole against the same slices alone; the last ones lie beyond 2^31."""
    neurons = HUGE // steps // 8 * 8
    needed = (
        4 * steps * 2 + 3 * 4 + 2
    ) * neurons  # x, spikes, gs, gx in bfloat16; membranes and their gradients; state
    if torch.cuda.mem_get_info()[0] < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 2**30:.0f} GiB of free memory")
    try:
        x = torch.randn(steps, neurons, dtype=torch.bfloat16, device="cuda")
        gs = torch.randn(steps, neurons, dtype=torch.bfloat16, device="cuda")
        whole = outcome(x, gs, gpu, KEPT[keep])
        for start in (0, neurons // 2 + 8, 2**31 // steps - 4096, neurons - 4096):
            here = slice(max(start, 0), start + 4096)
            alone = outcome(x[:, here].contiguous(), gs[:, here].contiguous(), gpu, KEPT[keep])
            assert same([whole[0][:, here], whole[1][here], whole[2][:, here]], alone)
    finally:
        x = gs = whole = None
        torch.cuda.empty_cache()
