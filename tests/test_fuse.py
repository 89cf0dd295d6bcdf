"""fuse_bn: the same outputs without batch norm, or a ValueError that names the batch norm and why it stays."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastlif
from fastlif import BatchNormLIF, PerStep, fuse_bn

BLOCKS = {  # convolution, transposed convolution, batch norm
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class DoubledPerStep(PerStep):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.Sequential):
    """Has its own constructor alone."""

    def __init__(self, *modules):
        super().__init__(*modules)


class ScaledConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) / 2


class Holder(nn.Module):
    """Calls `chain`, then `other`."""

    def __init__(self, chain, other):
        super().__init__()
        self.chain, self.other = chain, other

    def forward(self, x):
        return self.other(self.chain(x))


def trained(net):
    """`net` with numbers as after training, in eval mode."""
    for module in net.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return net.eval()


def norms(net):
    return [m for m in net.modules() if isinstance(m, (BatchNormLIF, nn.modules.batchnorm._BatchNorm))]


def check(net, x):
    """Fused, `net` has no batch norm and gives the same; `net` is left as it was."""
    net = trained(net.double())
    before = {name: p.clone() for name, p in net.state_dict().items()}
    fused = fuse_bn(net)
    assert not norms(fused)
    for _ in range(2):
        torch.testing.assert_close(fused(x.double()), net(x.double()), rtol=1e-9, atol=1e-9)
    assert all(p.equal(before[name]) for name, p in net.state_dict().items())
    return fused


def test_a_network():
    last = BatchNormLIF(10, affine=False)
    net = nn.Sequential(
        PerStep(nn.Conv2d(2, 6, 3, bias=False)), BatchNormLIF(6, alpha=1.0, threshold=0.8),
        PerStep(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)), fastlif.LIF(),
        PerStep(nn.Flatten(), nn.Linear(4 * 9, 10)), last, PerStep(nn.Linear(10, 3)),
    )  # fmt: skip
    x = torch.randn(5, 3, 2, 7, 7) * 2
    for _ in range(5):
        net(x)
    fused = fuse_bn(net)
    net.eval()
    assert not norms(fused)
    torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-4)
    again = pickle.loads(pickle.dumps(copy.deepcopy(fused)))
    assert again(x).equal(fused(x))
    torch._dynamo.reset()
    assert torch.compile(fused, fullgraph=True, backend="aot_eager")(x).equal(fused(x))


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("groups", (1, 2, 4))
@pytest.mark.parametrize("transposed", (False, True), ids=("conv", "transposed"))
@pytest.mark.parametrize("dimensions", BLOCKS)
def test_groups(dimensions, transposed, groups, bias):
    norm = BLOCKS[dimensions][2]
    for made in (4, 8):
        layer = BLOCKS[dimensions][transposed](4, made, 3, groups=groups, bias=bias)
        check(nn.Sequential(layer, norm(made), nn.ReLU()), torch.randn(2, 4, *[5] * dimensions))


def test_half_precision_layer_keeps_its_dtype_and_layout():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    net[0].to(torch.bfloat16)
    conv = fuse_bn(net)[0]
    assert conv.weight.dtype == conv.bias.dtype == torch.bfloat16
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_several_batch_norms_and_identities():
    check(nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.BatchNorm1d(4), nn.BatchNorm1d(4)), torch.randn(5, 3))
    norm = nn.BatchNorm1d(4)
    check(nn.Sequential(nn.Linear(3, 4), norm, norm, nn.Linear(4, 4), norm), torch.randn(5, 3))


def test_an_activation_used_twice_keeps_the_order():
    act = nn.ReLU()
    x = torch.randn(5, 2, 3, 6, 6)
    check(PerStep(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), act), x)
    with pytest.raises(ValueError, match=r"'module\.4' \(BatchNorm2d\): no convolution"):
        fuse_bn(PerStep(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 4, 3), act, nn.BatchNorm2d(4)))


def test_a_layer_used_elsewhere_is_refused():
    conv, one, two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    block = nn.Sequential(conv)
    for net, names in (
        (nn.Sequential(conv, one, conv, two), ("'1'", "'0'", "'2'")),
        (nn.Sequential(conv, nn.ReLU(), conv, one), ("'3'", "'0'", "'2'")),
        (nn.Sequential(conv, one, nn.Sequential(nn.ReLU(), conv)), ("'1'", "'0'", r"'2\.1'")),
        (nn.Sequential(block, one, block, nn.ReLU()), ("'1'", r"'0\.0'", r"'2\.0'")),
        (nn.ModuleList([nn.Sequential(conv, one), nn.Sequential(conv, two)]), (r"'0\.1'", r"'0\.0'", r"'1\.0'")),
        (Holder(nn.Sequential(conv, one), conv), (r"'chain\.1'", "'other'", r"'chain\.0'")),
        (Holder(nn.Sequential(conv, one), block), (r"'chain\.1'", r"'other\.0'", r"'chain\.0'")),
    ):
        norm, *layers = names
        with pytest.raises(ValueError, match=rf"cannot fold {norm} \(BatchNorm2d\): .* is used again") as raised:
            fuse_bn(net)
        assert all(name.replace("\\", "") in str(raised.value) for name in layers)


def test_a_block_used_again_is_folded_once():
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    check(nn.Sequential(block, block), x)
    check(Holder(block, nn.Sequential(nn.ReLU(), block)), x)
    conv, norm, *_ = block
    check(nn.Sequential(conv, norm, conv, norm), x)
    conv, carrying = PerStep(nn.Conv2d(3, 3, 1)), BatchNormLIF(3, carry_state=True)
    fused = check(nn.Sequential(conv, carrying, conv, carrying), torch.randn(5, 2, 3, 4, 4))
    assert fused[1] is fused[3]


@pytest.mark.parametrize(
    ("make", "said"),
    (
        (lambda c, n: Doubled(c, n), "'1' (BatchNorm2d): no convolution"),
        (lambda c, n: nn.Sequential(Doubled(c), n), "'1' (BatchNorm2d): '0' (Doubled) before it has a forward of its"),
        (lambda c, n: nn.Sequential(c, Doubled(n)), "'1.0' (BatchNorm2d): no convolution"),
        (
            lambda c, n: nn.Sequential(DoubledPerStep(c), PerStep(n)),
            "'1.module' (BatchNorm2d): '0' (DoubledPerStep) ",
        ),
        (lambda c, n: nn.Sequential(ScaledConv(3, 3, 1), n), "'0' (ScaledConv) before it has a forward of its own"),
        (lambda c, n: nn.Sequential(c, ScaledNorm(3)), "'1' (ScaledNorm): it has a forward of its own"),
    ),
)
def test_a_forward_of_its_own_is_refused(make, said):
    with pytest.raises(ValueError) as raised:
        fuse_bn(make(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    assert said in str(raised.value)


def test_an_objects_own_forward_is_refused():
    for place in range(2):
        net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        net[place].forward = lambda x: x
        with pytest.raises(ValueError, match=r"'1' \(BatchNorm2d\): .*has a forward of its own"):
            fuse_bn(net)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    net.forward = lambda x: x
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm2d\): no convolution or linear layer right before"):
        fuse_bn(net)


def test_subclasses_with_their_classs_forward_are_folded():
    x = torch.randn(4, 2, 3, 5, 5)
    check(Named(PerStep(Named(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))), x)
    check(DoubledPerStep(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), x)  # the nn.Sequential inside is called as a whole
    net = fastlif.compact(nn.Sequential(PerStep(nn.Conv2d(3, 3, 1)), BatchNormLIF(3)), recompute="conv")
    check(net, x)


@pytest.mark.parametrize("before", (True, False), ids=("pre-hook", "hook"))
@pytest.mark.parametrize("place", ("0.0", "1.0", "0", "1"))
def test_hooks_are_refused(place, before):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Sequential(nn.BatchNorm2d(3)))
    module = net.get_submodule(place)
    if before:
        module.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    else:
        module.register_forward_hook(lambda module, args, out: out + 1)
    if (place, before) in (("0", True), ("1", False)):  # before the convolution, after batch norm
        check(net, torch.randn(2, 3, 4, 4))
        return
    with pytest.raises(ValueError, match=r"cannot fold '1\.0' \(BatchNorm2d\): .* has forward hooks"):
        fuse_bn(net)


def old_weight_norm(conv):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(conv)


@pytest.mark.parametrize(
    ("compute", "remove"),
    (
        (parametrizations.weight_norm, lambda conv: parametrize.remove_parametrizations(conv, "weight")),
        (parametrizations.spectral_norm, lambda conv: parametrize.remove_parametrizations(conv, "weight")),
        (
            lambda conv: parametrize.register_parametrization(conv, "bias", nn.Softplus()),
            lambda conv: parametrize.remove_parametrizations(conv, "bias"),
        ),
        (old_weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
        (lambda conv: prune.random_unstructured(conv, "weight", 0.5), lambda conv: prune.remove(conv, "weight")),
    ),
    ids=("weight_norm", "spectral_norm", "bias", "old weight_norm", "old spectral_norm", "pruned"),
)
def test_a_weight_that_is_computed_is_refused(compute, remove):
    net = nn.Sequential(compute(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 4, 4)
    net(x)
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm2d\): '0' .*computed.*remove_parametrizations, remove_weig"):
        fuse_bn(net)
    remove(net[0])
    check(net, x)


def test_a_linear_layers_features_must_be_batch_norms_channels():
    """All have 4 features and 4 steps, samples or rows, so that nothing else fails."""
    linear, x = (lambda: nn.Linear(4, 4)), torch.randn(4, 4, 4, 4)
    for net, right in (
        (nn.Sequential(linear(), nn.BatchNorm1d(4)), 2),
        (PerStep(linear(), nn.BatchNorm1d(4)), 3),
        (nn.Sequential(PerStep(linear()), PerStep(nn.BatchNorm1d(4))), 3),
        (nn.Sequential(PerStep(linear()), BatchNormLIF(4)), 3),
        (nn.Sequential(linear(), BatchNormLIF(4)), 3),
        (nn.Sequential(linear(), PerStep(nn.BatchNorm1d(4))), 3),
    ):
        taken = 0
        for dims in (2, 3, 4):
            given = x[(0,) * (4 - dims)]
            try:
                trained(net)(given)
            except (RuntimeError, ValueError):
                continue
            if dims == right:
                check(copy.deepcopy(net), given)
                taken += 1
            else:
                with pytest.raises(ValueError, match=r"fuse_bn folded .* for inputs of \d dimensions"):
                    fuse_bn(net)(given)
        assert taken == 1


def test_an_unbatched_input_of_a_convolution():
    net = trained(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)))
    assert net(torch.randn(3, 4)).shape == (4, 4)  # batch norm takes the length for channels
    with pytest.raises(ValueError, match=r"'1' into this Conv1d for inputs of 3 dimensions.*got \[3, 4\]"):
        fuse_bn(net)(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("net", "pattern"),
    (
        (BatchNormLIF(3), r"cannot fold BatchNormLIF: no convolution or linear layer right before"),
        (nn.Sequential(BatchNormLIF(3), PerStep(nn.Linear(3, 3))), r"'0' \(BatchNormLIF\): .*right before"),
        (nn.Sequential(nn.Linear(3, 3), BatchNormLIF(3), BatchNormLIF(3)), r"'2' \(BatchNormLIF\): .*right before"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3)), r"'2' \(BatchNorm1d\): .*right before"),
        (
            nn.Sequential(nn.Linear(3, 3), BatchNormLIF(3, track_running_stats=False)),
            r"'1' \(BatchNormLIF\): it has no running statistics",
        ),
        (nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(1)), r"'1' .*its 1 channels are not the 8 of '0' \(Linear\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormLIF(4)), r"'1' .*on another axis than those of '0' \(Conv2d\)"),
        (
            nn.Sequential(PerStep(nn.Conv2d(3, 4, 1)), nn.BatchNorm3d(4)),
            r"'1' .*on another axis than those of '0\.module' \(Conv2d\)",
        ),
    ),
)
def test_refusals(net, pattern):
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=pattern):
        fuse_bn(net)
    assert all(p.equal(q) for p, q in itertools.zip_longest(net.state_dict().values(), before.values()))
