"""checkpoint_time: outputs and gradients of the whole sequence, from the memory of one window."""

import copy
import gc
import weakref

import pytest
import torch
from cases import norm_error
from over_time import Custom, compare, counted, gradients, make_net, make_x, spiking
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastlif
from fastlif.models import ConvNet

NEURONS = (
    {},
    {"reset": "hard", "v_reset": -0.1, "surrogate": "atan"},
    {"reset": "none", "surrogate": "rectangle"},
    {"reset_delay": True, "surrogate": "sigmoid"},
    {"reset_delay": True, "detach_reset": True, "learn_threshold": True},
    {"learn_decay": True, "learn_threshold": True, "channels": 6},
    {"surrogate": "rectangle", "learn_threshold": True},
    {"state": "compact"},
)
TRUNCATED = (
    {"truncate": 2},
    {"truncate": (4, 3), "learn_decay": True},
    {"truncate": 4, "reset_delay": True, "learn_threshold": True},
    {"truncate": (4, 4), "state": "compact", "reset": "hard"},
)


@pytest.mark.parametrize("steps", (None, 1, 3, 4, 12, 13, 50))
def test_every_number_of_steps(steps):
    compare(make_net(), make_x(13, 3, 5), steps, 1e-12)


@pytest.mark.parametrize("options", NEURONS, ids=str)
def test_every_neuron(options):
    compare(make_net(**options), make_x(13, 3, 5), 4, 1e-12)


@pytest.mark.parametrize("steps", (4, 8, 14, 20, None))
@pytest.mark.parametrize("options", TRUNCATED, ids=str)
def test_truncation_cuts_where_the_whole_run_is_cut(options, steps):
    compare(make_net(**options, leak={"truncate": 2}), make_x(14, 3, 5), steps, 1e-12)


@pytest.mark.parametrize("length", (0, 1, 2))
@pytest.mark.parametrize("steps", (None, 1, 2))
def test_short_sequences(length, steps):
    compare(make_net(), make_x(length, 3, 5), steps, 1e-12)


@pytest.mark.parametrize("options", NEURONS[:5] + NEURONS[6:] + TRUNCATED, ids=str)
def test_float32_bit_for_bit(options):
    net, x = spiking(**options), make_x(33, 2, 4, 3, dtype=torch.float32)
    assert compare(net, x, 8, 1e-5) == 0  # sums over all neurons cancel
    assert all(layer.v is None and not layer.carry_state for layer in net)


def test_channels_last_and_expanded_input():
    image = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last).requires_grad_()
    compare(spiking(), image.expand(9, 2, 4, 3, 5), 4, 0)
    compare(spiking(), make_x(9, 2, 3, 5, 4, dtype=torch.float32).permute(0, 1, 4, 2, 3), 4, 0)


def by_windows(net, x, steps):
    """The windowed run that checkpoint_time promises, with the whole graph."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, fastlif.nn.Stateful):
            module.carry_state = True
    y = torch.cat([net(x[t : t + steps]) for t in range(0, len(x), steps)])
    return y, [x, *net.parameters()]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_convolutions_batch_norm_in_eval_mode_and_autocast(dtype):
    net = ConvNet((2, 8, 8), 5, layers=(6, "pool", 8))
    net(torch.rand(4, 3, 2, 8, 8))  # running statistics
    net.eval()
    x = torch.rand(10, 3, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        wanted, inputs = by_windows(net, x, 4)
        y = fastlif.checkpoint_time(net, x, steps=4)
        cached = net(x)  # under autocast: casts made in checkpoint_time without gradient are not used here
    assert y.dtype == wanted.dtype == dtype and y.equal(wanted)
    g = torch.randn_like(y)
    for got, want in zip(gradients(y, g, x, *net.parameters()), gradients(wanted, g, *inputs), strict=True):
        assert got.dtype == want.dtype and norm_error(got, want) <= (1e-6 if dtype == torch.float32 else 2e-2)
    assert all(grad is not None for grad in gradients(cached, g, *net.parameters()))


@pytest.mark.parametrize("wrap", (nn.Sequential, lambda *parts: fastlif.compact(nn.Sequential(*parts))))
def test_fused_batch_norm_in_eval_mode_and_compacted_networks(wrap):
    def norm():
        layer = fastlif.nn.BatchNormLIF(6, 0.9, 0.3, learn_threshold=True, by_channel=True).double().eval()
        layer.running_var.uniform_(0.5, 2)
        return layer

    convolution, linear = nn.Conv2d(6, 6, 3, padding=1).double(), nn.Linear(6 * 16, 3).double()
    net = wrap(norm(), fastlif.PerStep(convolution), norm(), fastlif.PerStep(nn.Flatten(), linear))
    compare(net, make_x(10, 2, 6, 4, 4), 4, 1e-12)


@pytest.mark.parametrize("requires_grad", (True, False))
@pytest.mark.parametrize("steps", (1, 4, 20))
def test_carried_membranes_in_and_out(steps, requires_grad):
    x, start = make_x(9, 2, 5), torch.randn(2, 5, dtype=torch.float64, requires_grad=requires_grad)
    found = []
    for windowed in (True, False):
        net = nn.Sequential(fastlif.LIF(0.9, carry_state=True), fastlif.LIF(0.8), fastlif.LI(0.7, carry_state=True))
        net[0].v = start * 2
        y = fastlif.checkpoint_time(net, x, steps=steps) if windowed else net(x)
        last, first = net[0].v, net(x[:3]).sum()  # goes on from there
        loss = y.square().sum() + first + (last * torch.arange(5)).sum() + net[2].v.sum()
        found.append([y, last, *torch.autograd.grad(loss, [x, start] if requires_grad else [x])])
        assert net[1].v is None and not net[1].carry_state
    assert all(norm_error(a, b) <= 1e-12 for a, b in zip(*found, strict=True))


def test_the_final_membrane_alone():
    x, found = make_x(9, 2, 5, dtype=torch.float32), []
    for windowed in (True, False):
        layer = fastlif.LIF(0.9, carry_state=True)
        fastlif.checkpoint_time(layer, x, steps=2) if windowed else layer(x)
        found.append(torch.autograd.grad(layer.v.square().sum(), x)[0])
    assert found[0].equal(found[1])


def test_no_gradient_wanted():
    net, x = make_net(), torch.randn(9, 3, 5, dtype=torch.float64)
    net.requires_grad_(False)
    assert fastlif.saved_bytes(lambda: fastlif.checkpoint_time(net, x, steps=2)).total == 0
    assert not fastlif.checkpoint_time(net, x, steps=2).requires_grad
    net.requires_grad_(True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = fastlif.checkpoint_time(net, x, steps=2)
            assert not y.requires_grad and y.equal(net(x))


def test_some_gradients_wanted():
    net, x = make_net(learn_decay=True), torch.randn(9, 3, 5, dtype=torch.float64)
    net[0].requires_grad_(False)
    wanted = [p for p in net.parameters() if p.requires_grad]
    whole, y = net(x), fastlif.checkpoint_time(net, x, steps=2)
    g = torch.randn_like(y)
    for a, b in zip(gradients(y, g, *wanted), gradients(whole, g, *wanted), strict=True):
        assert norm_error(a, b) <= 1e-12


def test_tied_and_unused_parameters():
    net, x = make_net(), make_x(9, 3, 5)
    net[2].module.weight = nn.Parameter(torch.eye(6, dtype=torch.float64))
    net[0].module.append(nn.Linear(6, 6).double())
    net[0].module[-1].weight = net[2].module.weight
    net[1].register_parameter("unused", nn.Parameter(torch.zeros(2)))
    *used, unused = sorted(net.parameters(), key=lambda p: p is net[1].unused)
    whole, y = net(x), fastlif.checkpoint_time(net, x, steps=4)
    g = torch.randn_like(y)
    *got, nothing = gradients(y, g, *used, unused)
    assert nothing is None
    assert all(norm_error(a, b) <= 1e-12 for a, b in zip(got, gradients(whole, g, *used), strict=True))


def test_hooks_of_parameters_run_once_and_backward_can_run_again():
    net, x = make_net(), make_x(9, 3, 5)
    weight, calls = net[0].module[0].weight, []
    before = list(net.parameters())
    weight.register_hook(calls.append)
    y = fastlif.checkpoint_time(net, x, steps=2)
    y.sum().backward(retain_graph=True)
    first = weight.grad.clone()
    assert len(calls) == 1 and calls[0].equal(first)
    y.sum().backward()
    assert norm_error(weight.grad, 2 * first) <= 1e-12
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
def test_membranes_at_borders_are_all_it_keeps(dtype):
    x = torch.randn(30, 2, 50, dtype=dtype, requires_grad=True)
    membrane = 8 if dtype == torch.float64 else 4
    for steps, borders in ((1, 29), (7, 4), (10, 2), (15, 1), (30, 0)):
        assert counted(spiking(dtype), x, steps) == borders * 4 * 100 * membrane
    assert fastlif.saved_bytes(lambda: fastlif.checkpoint_time(spiking(dtype), x, steps=30)).total == x.nbytes


class Live:
    """Bytes of the distinct storages that autograd keeps now, and the most that it kept."""

    def __init__(self):
        self.kept, self.most = {}, 0

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        entry = self.kept.setdefault(storage.data_ptr(), [0, storage.nbytes()])
        entry[0] += 1
        self.most = max(self.most, sum(nbytes for count, nbytes in self.kept.values() if count))
        handle = nn.Identity()  # any object that can be referred to weakly
        handle.tensor = tensor
        weakref.finalize(handle, self.drop, entry)
        return handle

    def drop(self, entry):
        entry[0] -= 1

    def peak(self, net, x, steps):
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda handle: handle.tensor):
            y = fastlif.checkpoint_time(net, x, steps=steps)
            gc.collect()
            y.sum().backward()
        return self.most


def test_memory_grows_as_the_root_of_the_length():
    forward, peak = [], []
    for length in (16, 64, 256):
        x = torch.randn(length, 4, 100, requires_grad=True)
        forward.append(counted(spiking(), x) / 1600)
        peak.append((Live().peak(spiking(), x, None) - x.nbytes) / 1600)
    assert forward == [4 * 3, 4 * 7, 4 * 15]
    # and of one window its input: the first layer's is part of x, the last layer needs none; and its spikes as bits
    assert peak == pytest.approx([4 * 3 + 2 * 4, 4 * 7 + 2 * 8, 4 * 15 + 2 * 16], rel=0.05)
    whole = Live().peak(spiking(), x, 256)
    assert (whole - x.nbytes) / 1600 >= 2 * 256


def test_dropout_draws_the_same_mask_again():
    """The gradient of a linear chain shows the mask of backward; its output that of forward."""
    net, x = nn.Sequential(nn.Dropout(0.5), fastlif.PerStep(nn.Dropout(0.5))), make_x(30, 20, 10)
    y = fastlif.checkpoint_time(net, x, steps=7)
    after = torch.get_rng_state()
    (gx,) = torch.autograd.grad(y.sum(), x)
    assert (gx * x).equal(y) and 0.2 < (y != 0).double().mean() < 0.3
    assert torch.get_rng_state().equal(after) and not (gx[:7] == gx[7:14]).all()
    net.eval()
    assert fastlif.checkpoint_time(net, x, steps=7).equal(x)


@pytest.mark.parametrize("before", (True, False))
def test_hooks_draw_the_same_noise_again(before):
    net, x = nn.Sequential(nn.Linear(5, 5), fastlif.LIF()).double(), make_x(30, 2, 5)
    if before:
        net[0].register_forward_pre_hook(lambda module, args: args[0] + torch.randn_like(args[0]))
    else:
        net[0].register_forward_hook(lambda module, args, y: y + torch.randn_like(y))
    state = torch.get_rng_state()
    wanted, inputs = by_windows(net, x, 7)
    torch.set_rng_state(state)
    y = fastlif.checkpoint_time(net, x, steps=7)
    g = torch.randn_like(y)
    for got, want in zip(gradients(y, g, x, *net.parameters()), gradients(wanted, g, *inputs), strict=True):
        assert norm_error(got, want) <= 1e-12


def test_generators_are_kept_only_where_they_are_used():
    x = torch.randn(30, 2, 50, requires_grad=True)
    state = torch.get_rng_state().nbytes
    assert counted(nn.Sequential(nn.Dropout(0.5)), x, 10) == 3 * state
    assert counted(nn.Sequential(nn.Dropout(0.5)).eval(), x, 10) == 0
    assert counted(Custom(lambda self, x: x * 2), x, 10) == 0
    assert counted(Custom(lambda self, x: x * torch.rand_like(x)), x, 10) == 3 * state


def test_inside_checkpoint():
    net, x = make_net(), make_x(12, 3, 5)
    whole = net(x)
    for reentrant in (False, True):
        y = checkpoint(lambda x: fastlif.checkpoint_time(net, x * 1, steps=4), x, use_reentrant=reentrant)
        assert y.equal(whole)
        x.grad = None
        y.square().sum().backward()
        got, x.grad = x.grad, None
        net(x).square().sum().backward()
        assert norm_error(got, x.grad) <= 1e-12
    kept = fastlif.saved_bytes(lambda: checkpoint(fastlif.checkpoint_time, net, x, use_reentrant=False))
    assert kept.total <= x.nbytes


def test_around_a_compiled_caller():
    net, x = make_net(), make_x(12, 3, 5)

    def call(x):
        return fastlif.checkpoint_time(net, x * 2, steps=4) + 1

    y = torch.compile(call, backend="eager")(x)
    assert y.equal(net(x * 2) + 1)
    (got,), (want,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (call, lambda x: net(x * 2) + 1))
    assert norm_error(got, want) <= 1e-12
    torch.compiler.reset()
    with pytest.raises(Exception, match="checkpoint_time runs the module again"):
        torch.compile(call, backend="eager", fullgraph=True)(x)
