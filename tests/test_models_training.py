"""The networks in training: gradients, the naive twin, compact, folded batch norm, windows of time, compilation."""

import copy
from functools import partial

import pytest
import torch
from cases import norm_error
from test_models import NAMES, fused, make, make_x, neurons_of
from torch import nn

import fastlif
from fastlif import LIF, BatchNormLIF, models
from fastlif.train import naive


def with_weights_of(source, net):
    """The same parameters and buffers in the same order, whether batch norm and neurons are one layer or two."""
    net.load_state_dict(dict(zip(net.state_dict(), source.state_dict().values(), strict=True)))
    return net


def twin(name, **options):
    """The network of plain PyTorch."""
    neurons = partial(naive.LIF, **{**neurons_of(name).keywords, **options.pop("neuron", {})})
    return make(name, neurons=neurons, per_step=naive.PerStep, **options)


def awake(net):
    """ResNet-19 as it is after some training: at first its 256 neurons get too little to fire."""
    if isinstance(net, models.ResNet19):
        with torch.no_grad():
            net.readout[0].module[2].weight.mul_(8)
    return net


def run(net, x):
    """(scores, gradients of all parameters)."""
    scores = net(x)
    arriving = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view_as(scores)
    return scores.detach(), torch.autograd.grad(scores, list(net.parameters()), arriving)


def spikes_of(net, x):
    """What each layer of neurons puts out, in the order in which they run."""
    found, handles = [], []
    for module in net.modules():
        if isinstance(module, (LIF, naive.LIF)):
            handles.append(module.register_forward_hook(lambda module, inputs, output: found.append(output.detach())))
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def trained(net, x):
    """After one batch, whose statistics become the running ones; in eval mode."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, BatchNormLIF)):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    return net.eval()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name, norm):
    net = awake(make(name, norm_neurons=fused(name) if norm else None))
    _, grads = run(net, make_x(name, 4, 4))
    for (parameter, _), grad in zip(net.named_parameters(), grads, strict=True):
        taken_out = parameter.startswith("stages") and parameter.endswith(("module.bias", "module.0.bias"))
        assert grad.isfinite().all()
        assert grad.abs().max() > 0 or taken_out, parameter  # batch norm takes out the bias of the convolution before


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_naive_twin(name, norm, alpha):
    """In float64, where rounding flips no spike: the same scores, gradients and running statistics."""
    net = awake(make(name, norm_neurons=fused(name) if norm else None, alpha=alpha)).double()
    plain = with_weights_of(net, twin(name, alpha=alpha).double())
    x = make_x(name, dtype=torch.float64)
    (scores, grads), (expected, expected_grads) = run(net, x), run(plain, x)
    assert norm_error(scores, expected) < 1e-12
    largest = max(grad.norm() for grad in expected_grads)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert (grad - wanted).norm() <= 1e-10 * wanted.norm() + 1e-13 * largest
    for found, wanted in zip(net.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_naive_twin_in_float32(name):
    """Spikes flip where rounding decides, and then in layers behind: few, on the same weights drawn from the seed."""
    net, plain = awake(make(name, norm_neurons=fused(name))), awake(twin(name))
    for found, wanted in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, wanted)
    x = make_x(name, 4, 8)
    flips = spikes = 0
    for found, wanted in zip(spikes_of(net, x), spikes_of(plain, x), strict=True):
        flips, spikes = flips + (found != wanted).sum(), spikes + wanted.sum()
        assert 0.01 < wanted.mean() < 0.9
    assert flips <= 1e-3 * spikes


@pytest.mark.parametrize("recompute", [None, "conv"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_compact_gives_the_same_gradients(name, norm, recompute):
    plain = awake(make(name, norm_neurons=fused(name) if norm else None))
    packed = fastlif.compact(copy.deepcopy(plain), recompute=recompute)
    x = make_x(name)
    (scores, grads), (expected, expected_grads) = run(packed, x), run(plain, x)
    assert torch.equal(scores, expected)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert torch.equal(grad, wanted)
    for found, wanted in zip(packed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept(name):
    """Less with each: plain PyTorch, fused layers, sums of spikes as bytes, convolutions made again in backward."""
    x = make_x(name)
    nets = [make(name, norm_neurons=fused(name)) for _ in range(3)]
    fastlif.compact(nets[1])
    fastlif.compact(nets[2], recompute="conv")
    plain, fast, packed, again = (fastlif.saved_bytes(net, x).total for net in (twin(name), *nets))
    neurons = sum(s.numel() for s in spikes_of(nets[0], x))
    assert fast < 0.5 * plain
    assert packed < fast if name == "sew-resnet34" else packed <= fast
    own = 1.0 if name in ("convnet", "snn5", "vggsnn", "sew-resnet34") else 2.6  # the currents that are sums are kept
    assert again < own * neurons
    assert plain > 12 * neurons


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_folds(name, norm):
    x = make_x(name, dtype=torch.float64)
    net = trained(make(name, norm_neurons=fused(name) if norm else None, alpha=1.0).double(), x)
    folded = fastlif.fuse_bn(net)
    assert not any(isinstance(m, (nn.BatchNorm2d, BatchNormLIF)) for m in folded.modules())
    with torch.no_grad():
        assert norm_error(folded(x), net(x)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_time(name):
    """checkpoint_time, batch norm frozen, gives the whole run's gradients."""
    x = make_x(name, 6, dtype=torch.float64)
    net = trained(make(name, norm_neurons=fused(name)).double(), x)
    scores, grads = run(net, x)
    windows, windows_grads = run(WindowsOf(net, 2), x)
    assert norm_error(windows, scores) < 1e-12
    for grad, wanted in zip(windows_grads, grads, strict=True):
        assert norm_error(grad, wanted) < 1e-9 or wanted.norm() < 1e-12
    with pytest.raises(ValueError, match="batch norm in training mode"):
        fastlif.checkpoint_time(net.train(), x, steps=2)


class WindowsOf(nn.Module):
    def __init__(self, net, steps):
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, x):
        return fastlif.checkpoint_time(self.net, x, steps=self.steps)


@pytest.mark.parametrize("name", ["resnet19", "sew-resnet34"])
def test_compiles_in_one_graph(name):
    net, x = make(name, norm_neurons=fused(name), layers=((4, 1), (6, 1))), make_x(name, 2)
    plain = copy.deepcopy(net)
    scores, grads = run(torch.compile(net, backend="aot_eager", fullgraph=True), x)
    expected, expected_grads = run(plain, x)
    assert torch.equal(scores, expected)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert torch.equal(grad, wanted)


@pytest.mark.parametrize("name", ["vggsnn", "resnet19", "sew-resnet34"])
def test_autocast_and_channels_last(name):
    net, x = make(name, norm_neurons=fused(name)), make_x(name)
    image = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    with torch.autocast("cpu", torch.bfloat16):
        scores, grads = run(net.to(memory_format=torch.channels_last), image)
    assert scores.dtype == torch.bfloat16
    assert scores.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


def test_an_image_at_every_step_is_convolved_at_every_step():
    """Direct encoding, a view of stride 0 over time: the same as its copy, bit for bit."""
    net = make("resnet19", norm_neurons=fused("resnet19"))
    x = make_x("resnet19", 1)[0].expand(3, -1, -1, -1, -1)
    assert torch.equal(net(x), copy.deepcopy(net)(x.contiguous()))


def test_resnet19_begins_with_silent_hidden_neurons_that_learn():
    """As the published code does: the surrogate's window reaches them and all layers before."""
    net = make("resnet19", norm_neurons=fused("resnet19"))
    _, grads = run(net, make_x("resnet19", 4, 4))
    assert not spikes_of(net, make_x("resnet19", 4, 4))[-1].any()
    assert [name for (name, _), grad in zip(net.named_parameters(), grads, strict=True) if not grad.any()] == [
        "readout.2.module.weight"
    ]


def test_vggsnn_and_resnet34s_begin_as_published():
    """He's normal distribution by fan-out for convolutions (VGGSNN's code; Fang et al.'s); ResNet-19: PyTorch's own."""
    with torch.no_grad():
        for net in (models.VGGSNN(), models.SNN5(), models.SEWResNet34(layers=((64, 1), (128, 1)), shape=(3, 8, 8))):
            for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000):
                fan_out = conv.out_channels * conv.weight[0, 0].numel()
                assert abs(conv.weight.std() * (fan_out / 2) ** 0.5 - 1) < 0.05
        conv = models.ResNet19(layers=((64, 1),)).stages[2].branch[0].module[0]
        assert conv.weight.abs().max() <= (64 * 9) ** -0.5
