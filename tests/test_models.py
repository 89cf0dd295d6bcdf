"""The networks: their layers and parameters against the paper, and what they say about arguments they cannot take."""

import copy
import inspect
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from fastlif import LIF, BatchNormLIF, models
from fastlif.models import snn5, vggsnn
from fastlif.models.resnet import CurrentSum, SpikeSum
from fastlif.train import naive
from fastlif.train.measure import neuron_steps

NAMES = ("convnet", "snn5", "vggsnn", "resnet19", "spiking-resnet34", "sew-resnet34")
SMALL = {
    "convnet": {"shape": (1, 8, 8), "layers": (4, "pool", (6, 1))},
    "snn5": {"shape": (3, 16, 16), "layers": (4, (6, 5), "pool", (8, 5), "pool", 8, "pool")},
    "vggsnn": {"shape": (2, 16, 16), "layers": (4, 6, "pool", 8, 8, "pool")},
    "resnet19": {"shape": (3, 16, 16), "layers": ((4, 2), (8, 1)), "stem": 4, "hidden": 6},
    "spiking-resnet34": {"shape": (3, 16, 16), "layers": ((4, 2), (8, 1)), "stem": 4},
    "sew-resnet34": {"shape": (3, 16, 16), "layers": ((4, 2), (8, 1)), "stem": 4},
}


def neurons_of(name):
    """The maker of neurons that the network has by default."""
    return partial(inspect.signature(models.MODELS[name]).parameters["neurons"].default)


def fused(name, **options):
    """The maker of batch norm and these neurons as one layer."""
    return partial(BatchNormLIF, **{**neurons_of(name).keywords, **options})


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return models.build(name, **{"classes": 5, **SMALL[name], **options})


def make_x(name, steps=3, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(steps, batch, *SMALL[name]["shape"], generator=generator, dtype=dtype) * 2


def on_meta(name, *args, **options):
    with torch.device("meta"):
        return models.build(name, *args, **options)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def convs(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


def convolutions(*sizes):
    """Weights of convolutions (inputs, outputs, kernel), and of batch norm behind each."""
    return sum(i * o * k * k + 2 * o for i, o, k in sizes)


def blocks(*groups):
    """Of residual blocks: (channels before, channels, number of blocks, whether the first has a 1x1 convolution)."""
    return sum(
        convolutions((i, o, 3), *[(o, o, 3)] * (2 * n - 1), *([(i, o, 1)] if changes else []))
        for i, o, n, changes in groups
    )


def test_vggsnn_is_tets():
    """64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2-FC, of 2x48x48 (section 5)."""
    net = on_meta("vggsnn")
    assert [c.out_channels for c in convs(net)] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert all(c.kernel_size == (3, 3) and c.bias is not None for c in convs(net))
    assert sum(isinstance(m, nn.AvgPool2d) for m in net.modules()) == 4
    assert net.readout.module[1].in_features == 512 * 3 * 3
    sizes = [(i, o, 3) for i, o in zip((2, 64, 128, 256, 256, 512, 512, 512), (c.out_channels for c in convs(net)))]  # noqa: B905
    biases = 64 + 128 + 2 * 256 + 4 * 512
    assert parameters(net) == convolutions(*sizes) + biases + 512 * 9 * 10 + 10 == 9_271_498


def test_snn5_is_tets():
    """16C3-64C5-AP2-128C5-AP2-256C5-AP2-512C3-AP2-FC (section 5), of CIFAR-10's 3x32x32 (A.4)."""
    net = on_meta("snn5")
    sizes = [(3, 16, 3), (16, 64, 5), (64, 128, 5), (128, 256, 5), (256, 512, 3)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs(net)] == sizes
    kinds = [type(m.module) for m in net.stages if hasattr(m, "module")]
    conv, pool = nn.Sequential, nn.AvgPool2d
    assert kinds == [conv, conv, pool, conv, pool, conv, pool, conv, pool]
    biases = 16 + 64 + 128 + 256 + 512
    assert parameters(net) == convolutions(*sizes) + biases + 512 * 2 * 2 * 10 + 10 == 2_253_098


@pytest.mark.parametrize(("classes", "total"), [(10, 12_630_858), (100, 12_653_988)])
def test_resnet19_is_tets(classes, total):
    """The sum is that of the published code: 3, 3, 2 blocks of 128, 256, 512 channels behind 64, and two linear layers.

    17 convolutions (1 + 8 * 2) and 2 linear layers are the 19; the 1x1 convolutions are not counted.
    """
    net = on_meta("resnet19", classes=classes)
    body = blocks((64, 128, 3, True), (128, 256, 3, True), (256, 512, 2, True))
    readout = 512 * 256 + 256 + 256 * classes + classes
    assert parameters(net) == convolutions((3, 64, 3)) + body + readout == total
    assert sum(c.kernel_size == (3, 3) for c in convs(net)) == 17


@pytest.mark.parametrize("name", ["spiking-resnet34", "sew-resnet34"])
def test_resnet34s_have_resnet34s_parameters(name):
    """ResNet-34 has 21,797,672 (torchvision); the SEW paper's 21.79 M. Neurons add none."""
    net = on_meta(name)
    body = blocks((64, 64, 3, False), (64, 128, 4, True), (128, 256, 6, True), (256, 512, 3, True))
    assert parameters(net) == convolutions((3, 64, 7)) + body + 512 * 1000 + 1000 == 21_797_672
    assert sum(c.kernel_size != (1, 1) for c in convs(net)) == 33


@pytest.mark.parametrize("name", NAMES)
def test_neurons_are_the_papers(name):
    """Section 3.1: decay 0.5, threshold 1, hard reset to 0, fires above. SEW: integrate-and-fire (section 5.2)."""
    net = make(name)
    neurons = {m.neuron for m in net.modules() if isinstance(m, LIF)}
    assert len(neurons) == 1
    (neuron,) = neurons
    assert (neuron.threshold, neuron.v_reset, neuron.surrogate.kind) == (1.0, 0.0, "triangle")
    found = (neuron.decay, neuron.reset, neuron.detach_reset, neuron.fire_on_equal)
    expected = {"sew-resnet34": (1.0, "hard", True, True), "convnet": (0.5, "soft", False, True)}
    assert found == expected.get(name, (0.5, "hard", False, False))


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_and_neurons_are_one_layer(name):
    net = make(name, norm_neurons=fused(name))
    alone = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = [m for m in net.modules() if isinstance(m, CurrentSum)]
    behind = sum(len(convs(block.shortcut)) for block in sums)
    assert len(alone) == len(sums) + behind  # one before each sum, and on each 1x1 convolution
    assert sum(isinstance(m, BatchNormLIF) for m in net.modules()) == len(convs(net)) - len(alone)
    own = 1 if name == "resnet19" else 0
    assert sum(type(m) is LIF for m in net.modules()) == len(sums) + own


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("norm", [False, True])
def test_shapes(name, steps, norm):
    net = make(name, norm_neurons=fused(name) if norm else None)
    assert net(make_x(name, steps, 3)).shape == (steps, 3, 5)


def test_resnets_take_other_sizes():
    for name in ("resnet19", "spiking-resnet34", "sew-resnet34"):
        net = make(name)
        for size in ((9, 20), (1, 1), (32, 32)):
            assert net(torch.rand(2, 2, 3, *size)).shape == (2, 2, 5)


def test_vggsnn_runs_and_counts_its_neurons():
    net = models.VGGSNN((2, 16, 16), classes=3)
    x = torch.rand(2, 1, 2, 16, 16)
    assert net(x).shape == (2, 1, 3)
    assert neuron_steps(net, x, LIF) == 2 * (192 * 256 + 512 * 64 + 1024 * 16 + 1024 * 4)


def test_resnet19_counts_its_neurons():
    """As the published network: neurons behind each of 17 convolutions, none on the shortcuts, and 256 of them."""
    net = models.ResNet19((3, 16, 16), layers=((4, 3), (8, 3), (16, 2)), stem=2)
    expected = 2 * 256 + 6 * 4 * 256 + 6 * 8 * 64 + 4 * 16 * 16 + 256
    assert neuron_steps(net, torch.rand(1, 1, 3, 16, 16), LIF) == expected


class Normed(nn.Module):
    """Batch norm and neurons as one layer, as norm_neurons makes them."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.neurons = nn.BatchNorm2d(channels), LIF()

    def forward(self, x):
        return self.neurons(self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


@pytest.mark.parametrize("bias", (False, True))
def test_neurons_with_batch_norm_take_its_place(bias):
    outputs = []
    for norm_neurons in (None, Normed):
        torch.manual_seed(0)
        net = models.ConvNet((1, 8, 8), 3, LIF, (4, "pool", 6), norm_neurons=norm_neurons, bias=bias)
        outputs.append(net(torch.rand(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2))
    assert torch.equal(*outputs)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 2


@pytest.mark.parametrize("layer", ["separate", "fused", "naive"])
@pytest.mark.parametrize("name", NAMES)
def test_threshold_dependent_scale(name, layer):
    """Batch norm's result begins with deviation alpha * threshold, of two summands alpha * threshold / sqrt(2) each."""
    options = {**neurons_of(name).keywords, "threshold": 0.5}
    neurons = partial(naive.LIF if layer == "naive" else LIF, **options)
    norm_neurons = partial(BatchNormLIF, **options) if layer == "fused" else None
    net = make(name, neurons=neurons, norm_neurons=norm_neurons, alpha=0.75)
    sums = [m for m in net.modules() if isinstance(m, CurrentSum)]
    summands = {m for block in sums for part in (block.branch[-1], block.shortcut) for m in part.modules()}
    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm2d, BatchNormLIF))]
    assert len(norms) == len(convs(net))
    for norm in norms:
        expected = 0.75 * 0.5 / (math.sqrt(2) if norm in summands else 1)
        assert torch.equal(norm.weight, torch.full_like(norm.weight, expected))
        assert not norm.bias.any()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ["resnet19", "spiking-resnet34", "sew-resnet34"])
def test_zero_init_leaves_the_shortcut(name, norm):
    net = make(name, norm_neurons=fused(name) if norm else None, zero_init=True)
    x = (torch.rand(2, 1, 4, 8, 8) < 0.5).float()
    found = [m for m in net.modules() if isinstance(m, (CurrentSum, SpikeSum))]
    for block in found:
        zeros = [not m.weight.any() for m in block.branch.modules() if isinstance(m, (nn.BatchNorm2d, BatchNormLIF))]
        assert zeros == [False, True]
    if name == "sew-resnet34":
        same = next(block for block in found if isinstance(block.shortcut, nn.Identity))
        assert torch.equal(same(x), x)  # SEW's identity mapping (Fang et al. 2021, section 3.2)


@pytest.mark.parametrize("name", NAMES)
def test_copies(name):
    net, x = make(name, norm_neurons=fused(name)), make_x(name)
    again = make(name, seed=1, norm_neurons=fused(name))
    again.load_state_dict(net.state_dict())
    expected = copy.deepcopy(net)(x)
    for copied in (pickle.loads(pickle.dumps(net)), again, copy.deepcopy(net).eval().train()):
        assert torch.equal(copied(x), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convnet", {"shape": (1, 3, 2), "layers": (4, "pool", 4, "pool")}, "images of 3x2 cannot be halved 2 times"),
        ("snn5", {"shape": (3, 8, 16), "layers": snn5.LAYERS}, "images of 8x16 cannot be halved 4 times"),
        ("vggsnn", {"shape": (2, 48, 15), "layers": vggsnn.LAYERS}, "images of 48x15 cannot be halved 4 times"),
        *((name, {"classes": 0}, "classes must be at least 1, got 0") for name in NAMES),
        *((name, {"shape": (3, 0, 8)}, r"each at least 1, got \(3, 0, 8\)") for name in NAMES),
        *((name, {"shape": (3, 8)}, r"a sample's \(C, H, W\)") for name in NAMES),
        *((name, {"alpha": 0.0}, "alpha must be None or a positive finite number, got 0.0") for name in NAMES),
        *((name, {"alpha": math.inf}, "alpha must be None or a positive") for name in NAMES),
        *((name, {"layers": (4, "poll")}, "unknown layer 'poll'; allowed: channels") for name in ("convnet", "snn5")),
        ("vggsnn", {"layers": (4, (4, 2))}, r"unknown layer \(4, 2\); .* odd kernel"),
        ("vggsnn", {"layers": (0,)}, "unknown layer 0"),
        *((name, {"layers": ()}, "layers must be") for name in NAMES[-3:]),
        *((name, {"layers": (4, "pool")}, r"each group, .* got \(4, 'pool'\)") for name in NAMES[-3:]),
        *((name, {"layers": ((4, 1), (8, 0))}, "number of blocks") for name in NAMES[-3:]),
        *((name, {"stem": 0}, "stem must be at least 1, got 0") for name in NAMES[-3:]),
        ("resnet19", {"hidden": 0}, "hidden must be at least 1, got 0"),
        ("resnet19", {"alpha": 1.0, "norm_neurons": partial(BatchNormLIF, alpha=1.0)}, "leave it to the network"),
        ("resnet19", {"norm_neurons": partial(BatchNormLIF, alpha=1.0)}, "give it to the network"),
        ("sew-resnet34", {"alpha": 1.0, "norm_neurons": Normed}, "batch norm with a weight: this Normed has none"),
        ("vggsnn", {"alpha": 1.0, "neurons": nn.ReLU}, "neurons with a neuron.threshold: this ReLU has none"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown model 'resnet18'.*did you mean 'resnet19'"):
        models.build("resnet18")


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name):
    net, (channels, *size) = make(name), SMALL[name]["shape"]
    for shape in ((3, channels, *size), (2, 3, channels + 1, *size), (2, 2, 3, channels, *size)):
        with pytest.raises(ValueError, match=rf"this {type(net).__name__} needs x \[T, B, {channels}, "):
            net(torch.rand(shape))
    if not net.any_size:
        with pytest.raises(ValueError, match="needs x"):
            net(torch.rand(2, 3, channels, size[0], size[1] + 1))
