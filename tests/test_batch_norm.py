"""batch_norm_lif and BatchNormLIF: against torch's batch norm and the reference, on every layout; what they keep."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastlif
from fastlif import batch_norm
from fastlif.ops import native

BACKENDS = [
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(native.missing is not None, reason="no extension")),
]
SHAPES = [(5, 2, 3, 4, 5), (20, 3, 7), (17, 2, 40, 3, 3), (4, 2, 5, 8, 9), (33, 1, 2, 70)]
NEURONS = {
    "soft": dict(reset="soft"),
    "hard": dict(reset="hard", v_reset=0.1),
    "detached": dict(reset="hard", detach_reset=True, surrogate="atan"),
    "delayed": dict(reset_delay=True, fire_on_equal=False, surrogate="rectangle"),
    "none": dict(reset="none", surrogate="fast_sigmoid"),
}


def inputs(shape, dtype, channels_last=False, seed=0):
    """y, weight, bias, v0, and the gradients of spikes and final membrane."""
    g = torch.Generator().manual_seed(seed)
    compute = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*size, dtype=compute):
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

    y = (normal(*shape, dtype=torch.float64) * 1.5 + 0.4).to(dtype)
    if channels_last:
        y = y.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, shape[:2])
    weight, bias = normal(shape[2]).abs() + 0.5, normal(shape[2]) * 0.3
    leaves = [t.requires_grad_() for t in (y, weight, bias, normal(*shape[1:]))]
    return leaves, normal(*shape, dtype=dtype), normal(*shape[1:])


def everything(neuron, shape, dtype, backend, training=True, learned=False, channels_last=False):
    """All that a call gives back."""
    (y, weight, bias, v0), gs, gv = inputs(shape, dtype, channels_last)
    mean, var = torch.full_like(weight, 0.1).detach(), torch.full_like(weight, 2.0).detach()
    own = dict(decay=0.7)
    if learned:
        of_channel = torch.linspace(0.5, 1.5, shape[2], dtype=weight.dtype).view(-1, *(1,) * (len(shape) - 3))
        own = dict(decay=torch.tensor(0.7, dtype=weight.dtype), threshold=of_channel)
        own = {name: p.requires_grad_() for name, p in own.items()}
    spikes, v = fastlif.batch_norm_lif(
        y, mean, var, weight, bias, v0, training=training, backend=backend, **own, **neuron
    )
    ((spikes * gs).sum() + (v * gv).sum()).backward()
    grads = [t.grad for t in (y, weight, bias, v0, *(own.values() if learned else ()))]
    assert spikes.stride() == y.stride()
    return [spikes.detach(), v.detach(), mean, var, *grads]


@pytest.mark.parametrize("truncate", [None, 3, (4, 2)], ids=str)
@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_equals_the_reference(shape, name, truncate):
    if native.missing is not None:
        pytest.skip("no extension")
    for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64, torch.float16)):
        for training in (True, False):
            options = dict(training=training, learned=i == 0, channels_last=len(shape) == 5 and i != 1)
            neuron = {**NEURONS[name], "truncate": truncate}
            ours, theirs = (everything(neuron, shape, dtype, backend, **options) for backend in ("cpu", "reference"))
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a, b)


def composed(y, weight, bias, mean, var, v0, training, neuron):
    """torch's batch norm, then fastlif.lif."""
    x = nn.functional.batch_norm(y.flatten(0, 1), mean, var, weight, bias, training).unflatten(0, y.shape[:2])
    return fastlif.lif(x, v0, backend="reference", **neuron)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_batch_norm_followed_by_lif(backend, name, training):
    shape, neuron = (17, 3, 4, 6, 5), NEURONS[name]
    found = []
    for ours in (True, False):
        (y, weight, bias, v0), gs, gv = inputs(shape, torch.float64)
        mean, var = torch.full_like(weight, 0.1).detach(), torch.full_like(weight, 2.0).detach()
        if ours:
            s, v = fastlif.batch_norm_lif(y, mean, var, weight, bias, v0, training=training, backend=backend, **neuron)
        else:
            s, v = composed(y, weight, bias, mean, var, v0, training, neuron)
        ((s * gs).sum() + (v * gv).sum()).backward()
        found.append([s.detach(), v.detach(), mean, var, *(t.grad for t in (y, weight, bias, v0))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_flips_few_spikes_against_torch(backend):
    (y, weight, bias, v0), *_ = inputs((16, 4, 16, 16, 16), torch.float32)
    with torch.no_grad():
        ours, _ = fastlif.batch_norm_lif(y, None, None, weight, bias, v0, backend=backend)
        theirs, _ = composed(y, weight, bias, None, None, v0, True, {})
    assert (ours != theirs).float().mean() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_are_the_spikes_and_drive_backward(backend):
    neuron = fastlif.Neuron(reset="hard")
    (y, weight, bias, v0), gs, _ = inputs((5, 2, 3, 7, 5), torch.float32)
    args = dict(training=True, momentum=0.1, eps=1e-5, backend=backend)
    spikes, _, bits = batch_norm.run(neuron, y, None, None, weight, bias, v0, **args)
    unpacked = ((bits[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)[:, : v0.numel()]
    assert torch.equal(unpacked.float(), spikes.detach().flatten(1))
    (with_bits,) = torch.autograd.grad(spikes, y, gs)
    without, _, none = batch_norm.run(neuron, y, None, None, weight, bias, v0, emit=False, **args)
    assert none is None
    assert torch.equal(with_bits, torch.autograd.grad(without, y, gs)[0])


def test_layer_has_batch_norms_state_and_running_statistics():
    torch.manual_seed(0)
    ours, theirs = fastlif.BatchNormLIF(6, reset="hard"), nn.BatchNorm2d(6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        y = torch.randn(4, 2, 6, 5, 5)
        ours(y), theirs(y.flatten(0, 1))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    ours.eval(), theirs.eval()
    expected = fastlif.LIF(reset="hard")(theirs(y.flatten(0, 1)).unflatten(0, (4, 2)))
    assert (ours(y) != expected).float().mean() < 1e-3
    assert pickle.loads(pickle.dumps(ours)).num_features == copy.deepcopy(ours).num_features == 6
    ours.reset_parameters()
    assert ours.running_var.eq(1).all() and ours.num_batches_tracked == 0


def test_momentum_none_averages_all_calls():
    ours, theirs = (make(3, momentum=None) for make in (fastlif.BatchNormLIF, nn.BatchNorm1d))
    for i in range(4):
        y = torch.randn(5, 2, 3) + i
        ours(y), theirs(y.flatten(0, 1))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_threshold_dependent_scale():
    y = torch.randn(6, 2, 4, 3)
    scaled = fastlif.BatchNormLIF(4, threshold=0.5, alpha=2.0, learn_threshold=True, by_channel=True)
    plain = fastlif.BatchNormLIF(4, threshold=0.5)
    assert torch.equal(scaled(y), plain(y))
    scaled(y).sum().backward()
    assert scaled.threshold.grad.shape == (4,)


@pytest.mark.parametrize("surrogate", ["triangle", "rectangle"])
@pytest.mark.parametrize("steps", [10, 40])
def test_keeps_y_alone(surrogate, steps):
    y = nn.Parameter(torch.randn(steps, 2, 8, 6, 6)) * 1
    layer = fastlif.BatchNormLIF(8, surrogate=surrogate, reset="hard")
    kept = fastlif.saved_bytes(lambda: layer(y)).total
    neurons = y[0].numel()
    borders = (steps - 1) // 16 * neurons * 4
    assert kept - y.nbytes - borders - steps * neurons // 8 < 2048  # what is left are channels' numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_near_as_torchs(dtype):
    errors = []
    for kind in ("exact", "ours", "torch"):
        (y, weight, bias, v0), gs, _ = inputs((8, 4, 8, 8, 8), dtype)
        if kind == "exact":
            y = y.detach().double().requires_grad_()
            weight, bias, v0 = (t.detach().double() for t in (weight, bias, v0))
        neuron = dict(reset="none", surrogate="sigmoid")
        if kind == "torch":
            s, _ = composed(y, weight, bias, None, None, v0, True, neuron)
        else:
            s, _ = fastlif.batch_norm_lif(y, None, None, weight, bias, v0, **neuron)
        grad = torch.autograd.grad(s, y, gs.to(s.dtype))[0].double()
        if kind == "exact":
            exact = grad
        else:
            errors.append((grad - exact).norm() / exact.norm())
    assert errors[0] <= 2 * errors[1]


def test_autocast_gives_spikes_in_its_dtype():
    layer = fastlif.BatchNormLIF(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 2, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_compiles_whole(training):
    torch._dynamo.reset()
    layer = fastlif.BatchNormLIF(4, reset="hard", learn_threshold=True).train(training)
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (3, 7):
        y = torch.randn(steps, 2, 4, 5, requires_grad=True)
        found = [
            torch.autograd.grad(f(y).sum(), [y, net.weight, net.threshold])
            for f, net in ((compiled, layer), (plain, plain))
        ]
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(layer.running_var, plain.running_var)


def test_bad_input():
    y = torch.randn(3, 2, 4, 5)
    with pytest.raises(ValueError, match=r"needs y \[T, B, C"):
        fastlif.batch_norm_lif(torch.randn(3, 2))
    with pytest.raises(ValueError, match="weight must be one number for each of 4 channels"):
        fastlif.batch_norm_lif(y, weight=torch.ones(3))
    with pytest.raises(ValueError, match="more than one value per channel"):
        fastlif.batch_norm_lif(torch.randn(1, 1, 4))
    with pytest.raises(ValueError, match="go together"):
        fastlif.batch_norm_lif(y, torch.zeros(4))
    with pytest.raises(TypeError, match="momentum must be a number, got NoneType"):
        fastlif.batch_norm_lif(y, momentum=None)
    with pytest.raises(ValueError, match=r"momentum must be finite and in \[0, 1\], got 2"):
        fastlif.batch_norm_lif(y, momentum=2)
    with pytest.raises(ValueError, match=r"eps must be finite and in \[0, inf\], got -1"):
        fastlif.batch_norm_lif(y, eps=-1)
    with pytest.raises(ValueError, match="channels must be a positive integer"):
        fastlif.BatchNormLIF(0)
    empty = torch.randn(0, 2, 4, 5)
    assert fastlif.BatchNormLIF(4)(empty).shape == empty.shape
