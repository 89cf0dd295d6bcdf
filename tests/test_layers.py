"""LIF, IF, LI and PerStep, and what becomes of their state."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from cases import RESETS, norm_error
from torch import nn

import fastlif

LAYERS = (
    lambda: fastlif.LIF(0.8, 0.7, reset="hard", surrogate=fastlif.ATan(3.0)),
    lambda: fastlif.LIF(0.8, learn_decay=True, learn_threshold=True, channels=4),
    lambda: fastlif.LIF(0.8, learn_decay=True),
    lambda: fastlif.LIF(reset_delay=True, detach_reset=True, fire_on_equal=False, truncate=(4, 2)),
    lambda: fastlif.IF(2.0, surrogate="rectangle"),
    lambda: fastlif.LI(0.9, gain=0.5, bias=0.1),
)
CARRIERS = (lambda: fastlif.LIF(0.8, carry_state=True), lambda: fastlif.LI(0.8, carry_state=True))


def test_a_layer_is_the_function():
    x = torch.randn(9, 2, 4, 3)
    options = {
        "gain": 0.7,
        "bias": 0.1,
        "reset": "hard",
        "v_reset": -0.2,
        "surrogate": fastlif.Sigmoid(2.0),
        "fire_on_equal": False,
    }
    assert fastlif.LIF(0.8, 0.9, **options)(x).equal(fastlif.lif(x, decay=0.8, threshold=0.9, **options)[0])
    assert fastlif.IF(2.0)(x).equal(fastlif.lif(x, decay=1.0, threshold=2.0)[0])


@pytest.mark.parametrize("learned", ("decay", "threshold"))
@pytest.mark.parametrize("channels", (None, 4))
def test_learned_values(learned, channels):
    x = torch.randn(9, 2, 4, 3, 5)
    layer = fastlif.LIF(0.8, 0.9, channels=channels, **{f"learn_{learned}": True})
    (parameter,) = layer.parameters()
    assert parameter.shape == (() if channels is None else (4,))
    start = {"decay": 0.8, "threshold": 0.9}[learned]
    torch.testing.assert_close(getattr(layer, learned).detach(), torch.full(parameter.shape, start))
    spikes = layer(x)
    g = torch.randn_like(spikes)
    (got,) = torch.autograd.grad(spikes, parameter, g)
    plain = torch.full((4, 1, 1) if channels else (), start, requires_grad=True)
    values = {"decay": 0.8, "threshold": 0.9, learned: plain}
    wanted, _ = fastlif.lif(x, **values)
    (want,) = torch.autograd.grad(wanted, plain, g)
    want = want.view(parameter.shape) * (0.8 * 0.2 if learned == "decay" else 1)  # through the logit
    assert spikes.equal(wanted) and norm_error(got, want) < 1e-5


def test_learned_decay_stays_between_0_and_1():
    layer = fastlif.LIF(0.99, learn_decay=True)
    x = torch.rand(20, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e3)
    for _ in range(5):
        optimizer.zero_grad()
        (-layer(x.unsqueeze(1)).sum()).backward()
        optimizer.step()
        assert 0 <= layer.decay.item() <= 1


def test_li_returns_membranes():
    x = torch.randn(21, 3, 4, requires_grad=True)
    y = fastlif.LI(0.9, gain=0.5, bias=0.1)(x)
    v, wanted = torch.zeros(3, 4), []
    for step in x:
        v = 0.9 * v + 0.5 * step + 0.1
        wanted.append(v)
    wanted = torch.stack(wanted)
    assert y.equal(wanted)
    g = torch.randn_like(y)
    got, want = (torch.autograd.grad(out, x, g)[0] for out in (y, wanted))
    assert norm_error(got, want) <= 1e-6


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_li_keeps_a_float32_membrane(dtype):
    x = torch.randn(50, 7, 3).to(dtype)
    y = fastlif.LI(0.99)(x)
    assert y.dtype == dtype and y.equal(fastlif.LI(0.99)(x.float()).to(dtype))


@pytest.mark.parametrize("make", CARRIERS, ids=("LIF", "LI"))
def test_carried_state(make):
    torch.manual_seed(0)
    x = torch.randn(20, 3, 5, requires_grad=True)
    carrying, plain = make(), make()
    plain.carry_state = False
    whole = plain(x)
    parts = torch.cat([carrying(x[:7]), carrying(x[7:])])
    assert parts.equal(whole)
    g = torch.randn_like(whole)
    assert torch.autograd.grad(parts, x, g)[0].equal(torch.autograd.grad(whole, x, g)[0])
    net = nn.Sequential(carrying)
    assert fastlif.reset_state(net) is net and carrying.v is None
    first = carrying(x[:7])
    fastlif.detach_state(net)
    assert not carrying.v.requires_grad
    second = carrying(x[7:])
    assert torch.cat([first, second]).equal(whole)
    (gx,) = torch.autograd.grad(second.sum(), x)
    assert not gx[:7].any() and gx[7:].any()
    assert not carrying.state_dict() and plain.v is None


@pytest.mark.parametrize("requires_grad", (False, True))
@pytest.mark.parametrize("again", (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))))
def test_carried_state_is_no_buffer_and_survives_a_copy(again, requires_grad):
    layer = fastlif.LIF(0.8, carry_state=True)
    layer(torch.randn(3, 2, 5, requires_grad=requires_grad))
    assert not list(layer.buffers()) and not layer.state_dict()
    other = again(layer)
    assert other.v.equal(layer.v) and other.v is not layer.v


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("again", (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))))
def test_copies(make, again):
    layer, x = make(), torch.randn(9, 2, 4, 3)
    for p in layer.parameters():
        p.data += 0.05
    other = again(layer)
    assert other(x).equal(layer(x)) and repr(other) == repr(layer)
    assert all(a is not b for a, b in zip(layer.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("make", LAYERS)
def test_state_dict(make):
    layer, other, x = make(), make(), torch.randn(9, 2, 4, 3)
    for p in layer.parameters():
        p.data += 0.05
    other.load_state_dict(layer.state_dict())
    assert other(x).equal(layer(x)) and list(layer.state_dict()) == [name for name, _ in layer.named_parameters()]


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(fastlif.LIF()) == "LIF()"
    assert repr(fastlif.LIF(0.8, reset="hard")) == "LIF(decay=0.8, reset='hard')"
    assert "learn_decay=True" in repr(fastlif.LIF(0.8, learn_decay=True))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("options", [*RESETS, {"learn_decay": True, "learn_threshold": True, "channels": 6}])
def test_in_a_sequential_network(options, dtype):
    net = nn.Sequential(
        fastlif.PerStep(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)),
        fastlif.LIF(0.8, **options),
        fastlif.PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 5)),
        fastlif.LI(0.9),
    )
    x = torch.rand(7, 3, 2, 8, 8)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = net(x)
    assert y.shape == (7, 3, 5)
    y.float().pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_to_another_dtype():
    layer = fastlif.LIF(0.8, learn_decay=True, learn_threshold=True, channels=4).double()
    x = torch.randn(9, 2, 4, 3, dtype=torch.float64)
    assert layer(x).dtype == torch.float64
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
def test_per_step(memory_format):
    conv = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
    x = torch.randn(5 * 2, 3, 6, 6).to(memory_format=memory_format).unflatten(0, (5, 2))
    y = fastlif.PerStep(conv)(x)
    wanted = torch.stack([conv(step) for step in x])
    assert y.shape == (5, 2, 4, 4, 4) and torch.allclose(y, wanted, atol=1e-6)
    if memory_format == torch.channels_last:
        assert y[0].is_contiguous(memory_format=torch.channels_last)
    assert fastlif.PerStep(nn.Identity())(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_batch_norm_momentum_none_is_torchs(dtype):
    ours, theirs = fastlif.BatchNormLIF(3, momentum=None).to(dtype), nn.BatchNorm1d(3, momentum=None).to(dtype)
    for i in range(7):
        y = (torch.randn(5, 2, 3, dtype=torch.float64) + i).to(dtype)
        ours(y), theirs(y.flatten(0, 1))
    exact = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=exact, atol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=exact, atol=0)
    assert ours.num_batches_tracked == 7


@pytest.mark.parametrize("tracked", (True, False))
def test_batch_norm_scaled_without_weight(tracked):
    """It takes device and dtype from x, as there may be nothing else to take them from."""
    layer = fastlif.BatchNormLIF(3, threshold=0.7, alpha=0.3, affine=False, track_running_stats=tracked)
    assert layer.to("meta")(torch.randn(5, 2, 3, device="meta")).device.type == "meta"
    weight = layer.effective_weight(torch.ones(1, dtype=torch.float64))
    assert weight.equal(torch.full((3,), 0.3 * 0.7, dtype=torch.float64))


@pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
@pytest.mark.parametrize("again", (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))))
def test_batch_norm_with_a_process_group_can_be_copied(again):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        group, y = dist.new_group([0]), torch.randn(4, 2, 3)
        layer = fastlif.BatchNormLIF(3, process_group=group)
        other = again(layer)
        assert other.process_group == group.group_name
        assert other(y).equal(layer(y)) and other.running_var.equal(layer.running_var)
        assert again(fastlif.BatchNormLIF(3, process_group=True)).process_group is True
        assert type(fastlif.fuse_bn(nn.Sequential(nn.Linear(3, 3), layer))[1]) is fastlif.LIF
    finally:
        dist.destroy_process_group()
    assert other(y).shape == y.shape  # without a group it is alone


def test_carried_state_compiles():
    torch._dynamo.reset()
    layer, x = fastlif.LIF(0.8, carry_state=True), torch.randn(9, 2, 4, requires_grad=True)
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in x.split(3):
        assert compiled(steps).equal(plain(steps))
    assert layer.v.equal(plain.v)
