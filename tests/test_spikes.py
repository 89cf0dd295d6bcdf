"""Spikes kept as bits inside PerStep: gradients and bytes against the same network kept dense."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastlif
from fastlif.memory import spikes
from fastlif.memory.packed import Packing
from fastlif.ops import planes
from fastlif.ops.reference import pack, unpack

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
STEPS, BATCH = 5, 2


class Fold(nn.Module):
    """What PerStep does, keeping what PyTorch keeps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Net(nn.Module):
    """Neurons, then a module on their spikes; `between` stands in for what a user does with them."""

    def __init__(self, module, between=lambda s: s, per_step=fastlif.PerStep, **options):
        super().__init__()
        self.neurons, self.between = fastlif.LIF(surrogate="rectangle", **options), between
        self.rest = per_step(module)

    def forward(self, x):
        return self.rest(self.between(self.neurons(x * 1.5)))


def gradients(run, x, *parameters):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(x)
    total = (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(total, [x, *parameters])]


def same(module, x, between=lambda s: s, ratio=None, **options):
    """Equal bit for bit to the dense network, and at most `ratio` of its bytes."""
    ours = Net(module, between, **options)
    dense = Net(module, between, Fold, **options)
    parameters = list(module.parameters())
    for got, want in zip(gradients(ours, x, *parameters), gradients(dense, x, *parameters), strict=True):
        assert got.equal(want) and got.stride() == want.stride()
    if ratio is not None:
        leaf = x.clone().requires_grad_()
        few, many = (fastlif.saved_bytes(net, leaf).total for net in (ours, dense))
        assert few <= ratio * many, (few, many)


@pytest.mark.parametrize("native", (True, False))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ((0, 3), (3, 0), (1, 1), (2, 7), (3, 8), (2, 9), (4, 64), (3, 1001), (2, 70000)))
def test_planes(size, dtype, native, monkeypatch):
    if not native:
        monkeypatch.setattr(planes.native, "serves", lambda device: False)
    x = (torch.rand(size) < 0.4).to(dtype)
    plane = torch.ops.fastlif.pack_spikes(x, size[0])
    assert plane.equal(torch.stack([pack(row != 0) for row in x]) if size[0] else plane[:0])
    assert torch.ops.fastlif.unpack_spikes(plane, size, (size[1], 1), dtype).equal(x)
    apart = torch.full((size[0], plane.shape[1] + 5), 255, dtype=torch.uint8)[:, : plane.shape[1]].copy_(plane)
    assert torch.ops.fastlif.unpack_spikes(apart, size, (size[1], 1), dtype).equal(x)
    if size[0]:
        assert all(unpack(row, size[1]).equal(want != 0) for row, want in zip(plane, x, strict=True))


def test_operators_pass_opcheck():
    x = (torch.rand(3, 2, 5, 4, 4) < 0.4).float().to(memory_format=torch.channels_last_3d)
    torch.library.opcheck(torch.ops.fastlif.pack_spikes, (x, 3))
    plane = torch.ops.fastlif.pack_spikes(x)
    torch.library.opcheck(torch.ops.fastlif.unpack_spikes, (plane, x.shape, x.stride(), x.dtype, x))


IMAGES = {
    "conv": (nn.Conv2d(3, 4, 3, padding=1), 0.2),
    "strided, grouped, dilated": (nn.Conv2d(3, 6, 3, stride=2, groups=3, dilation=2, padding=2, bias=False), 0.2),
    "same": (nn.Conv2d(3, 4, 3, padding="same"), 0.2),
    "uneven same": (nn.Conv2d(3, 4, 2, padding="same"), None),
    "reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), None),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), None),
    "batch norm": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 0.7),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 9)), 0.2),
    "linear on images": (nn.Linear(7, 5), 0.2),
    "linear without bias": (nn.Linear(7, 5, bias=False), 0.2),
    "average pool": (nn.AvgPool2d(2), 0.2),
    "average pool, padded": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), 0.2),
    "average pool, divisor": (nn.AvgPool2d(2, divisor_override=3), 0.2),
    "max pool": (nn.MaxPool2d(2), 0.2),
    "max pool, padded": (nn.MaxPool2d(3, 2, 1, dilation=1, ceil_mode=True), 0.2),
    "indices": (nn.MaxPool2d(3, 1, 1, dilation=1), 0.2),
    "max, average, conv": (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.Conv2d(3, 4, 2)), 0.3),
    "average, conv": (nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(3, 4, 2)), 0.35),
    "average twice, conv": (nn.Sequential(nn.AvgPool2d(2, 1), nn.AvgPool2d(2, 1), nn.Conv2d(3, 4, 2)), 0.3),
    "dropout": (nn.Sequential(nn.Dropout(0.0), nn.Conv2d(3, 4, 1)), 0.2),
    "adaptive": (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 4, 1)), None),
}


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("which", IMAGES)
def test_on_images(which, layout):
    module, ratio = IMAGES[which]
    x = torch.randn(STEPS * BATCH, 3, 6, 7).to(memory_format=layout).unflatten(0, (STEPS, BATCH))
    same(module, x, ratio=ratio)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", range(1, 12))
def test_averages_fit_a_byte_exactly(kernel, dtype):
    x = (torch.rand(4, 2, 22, 23) < torch.rand(4, 1, 1, 1)).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = nn.functional.avg_pool2d(x.to(memory_format=layout), kernel)
        spikes.remember(y, spikes.Kind(kernel**2, kernel**2))
        codes, recipe = spikes.encode(y)
        assert codes.itemsize == 1 and spikes.decode(codes, recipe).equal(y)


@pytest.mark.parametrize("d", (1, 2, 3))
@pytest.mark.parametrize("which", ("Conv", "AvgPool", "MaxPool"))
def test_dimensions(which, d):
    made = getattr(nn, f"{which}{d}d")
    module = made(3, 4, 3) if which == "Conv" else made(2)
    same(module, torch.randn(STEPS, BATCH, 3, *(4,) * d), ratio=0.2)


VIEWS = {
    "steps": lambda s: s[1:4],
    "channels": lambda s: s[:, :, 1:],
    "every other": lambda s: s[..., ::2],
    "transposed": lambda s: s.transpose(-1, -2),
    "expanded": lambda s: s[:, :, :1].expand(-1, -1, 3, -1, -1),
    "copied": lambda s: s.transpose(-1, -2).contiguous(),
    "detached": lambda s: s.detach(),
    "dropout": lambda s: nn.functional.dropout(s, 0.0),
    "cast": lambda s: s.bfloat16().float(),
    "doubled": lambda s: s * 2,
    "summed": lambda s: s + s,
    "changed": lambda s: s.clone().add_(0.5),
    "changed before": lambda s: s.add_(0.5),
    "changed through a view": lambda s: (s[0].mul_(3), s)[1],
    "changed detached": lambda s: (s.detach().mul_(3), s)[1],
}


@pytest.mark.parametrize("which", VIEWS)
def test_between(which):
    channels = 2 if which == "channels" else 3
    if which == "detached":
        net = Net(nn.Conv2d(3, 4, 3), VIEWS[which])
        y = net(torch.randn(STEPS, BATCH, 3, 6, 7)).square().sum()
        assert net.rest.module.weight.grad is None and torch.autograd.grad(y, net.rest.module.weight)[0].any()
        return
    ratio = 0.3 if which in ("steps", "channels", "every other", "transposed", "expanded") else None
    same(nn.Conv2d(channels, 4, 3), torch.randn(STEPS, BATCH, 3, 6, 7), VIEWS[which], ratio)


def test_a_change_after_packing_is_detected():
    for change in (lambda s: s.add_(1), lambda s: s[0].zero_(), lambda s: s.detach().zero_()):
        for module in (nn.Conv2d(3, 4, 3), nn.Linear(7, 4), nn.MaxPool2d(2)):
            s = fastlif.LIF()(torch.randn(4, 2, 3, 6, 7, requires_grad=True) * 1)
            y = fastlif.PerStep(module)(s)
            change(s)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()


def test_a_view_of_another_dtype_is_not_spikes():
    s, w = fastlif.LIF()((torch.randn(4, 3, 8) * 2).double()), torch.randn(16, requires_grad=True)
    with fastlif.compact():
        y = (s.view(torch.float32) * w).sum()
    assert torch.autograd.grad(y, w)[0].equal(s.view(torch.float32).sum((0, 1)))


def test_a_copy_is_known_where_it_is_exact():
    s = fastlif.LIF()(torch.randn(4, 2, 8, 8, requires_grad=True))
    with Packing():
        thirds = nn.functional.avg_pool2d(s, 3)
        assert spikes.known(thirds) == (9, 9) and spikes.known(thirds.clone()) == (9, 9)
        assert spikes.known(thirds.double()) is None and spikes.known(thirds.bool()) is None
        assert spikes.known(s.half()) == (1, 1) and spikes.known(s.transpose(-1, -2).reshape(4, -1)) == (1, 1)


@pytest.mark.parametrize("modules", ([nn.GRU(7, 4)], [nn.Identity(), nn.MaxPool1d(2, return_indices=True)]))
def test_per_step_needs_one_tensor(modules):
    for x in (torch.randn(4, 2, 7), fastlif.LIF()(torch.randn(4, 2, 7))):
        with pytest.raises(TypeError, match=f"return one tensor, and {type(modules[-1]).__name__} returned a tuple"):
            fastlif.PerStep(*modules)(x)


def test_several_consumers_share_one_plane():
    neurons = 6 * 4 * 50
    for options, own in (({"surrogate": "rectangle"}, 2), ({"surrogate": "pass_through"}, 0)):
        net = nn.Module()
        net.lif = fastlif.LIF(**options)
        net.a, net.b = fastlif.PerStep(nn.Linear(50, 3)), fastlif.PerStep(nn.Linear(50, 2))

        def run(x, net=net):
            s = net.lif(x * 1)
            return net.a(s), net.b(s), net.a(s)

        x = torch.randn(6, 4, 50, requires_grad=True)
        net.forward = run
        assert fastlif.saved_bytes(net, x).total <= neurons // 8 * max(own, 1) + 64


def test_modules_used_twice():
    shared = nn.Conv2d(3, 3, 3, padding=1)

    class Twice(nn.Module):
        def __init__(self, per_step):
            super().__init__()
            self.per_step, self.lif = per_step(shared), fastlif.LIF(surrogate="rectangle")

        def forward(self, x):
            return self.per_step(self.lif(self.per_step(self.lif(x * 2)))) + self.per_step(self.lif(x))

    x = torch.randn(STEPS, BATCH, 3, 6, 7)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = [gradients(Twice(kind), x, *shared.parameters()) for kind in (fastlif.PerStep, Fold)]
        assert all(got.equal(want) for got, want in zip(*found, strict=True))


@pytest.mark.parametrize("which", ("conv", "linear", "batch norm", "average, conv", "max pool"))
def test_autocast(which):
    module, _ = IMAGES[which]
    x = torch.randn(STEPS, BATCH, 3, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        same(module, x, ratio=0.8)


@pytest.mark.parametrize("reentrant", (True, False))
def test_checkpoint_around(reentrant):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    dense, ours = Net(module, per_step=Fold), Net(module)
    x = torch.randn(STEPS, BATCH, 3, 6, 7)
    want = gradients(dense, x, *module.parameters())
    if reentrant:  # which knows nothing of torch.autograd.grad
        leaf = x.clone().requires_grad_()
        y = checkpoint(ours, leaf, use_reentrant=True)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found = [y.detach(), leaf.grad, *(p.grad for p in module.parameters())]
    else:
        found = gradients(lambda x: checkpoint(ours, x, use_reentrant=False), x, *module.parameters())
        inside = fastlif.saved_bytes(lambda x: checkpoint(ours, x, use_reentrant=False), x.requires_grad_())
        assert inside.total == 0
    assert all(a.equal(b) for a, b in zip(found, want, strict=True))


def test_nothing_is_kept_where_nothing_is_needed():
    net = Net(nn.Conv2d(3, 4, 3))
    x = torch.randn(STEPS, BATCH, 3, 6, 7)
    with torch.no_grad():
        assert fastlif.saved_bytes(net, x).total == 0
    frozen = Net(nn.Conv2d(3, 4, 3).requires_grad_(False))
    assert fastlif.saved_bytes(frozen, x.requires_grad_()).total <= x.numel() // 4 + 64
    with torch.inference_mode():
        net(torch.randn(STEPS, BATCH, 3, 6, 7))


def test_a_first_layer_without_gradient():
    module = nn.Conv2d(3, 4, 3)
    x = torch.randn(STEPS, BATCH, 3, 6, 7)
    few, many = (Net(module, per_step=kind) for kind in (fastlif.PerStep, Fold))
    assert fastlif.saved_bytes(few, x).total <= fastlif.saved_bytes(many, x).total / 30
    grads = [torch.autograd.grad(net(x).square().sum(), module.weight)[0] for net in (few, many)]
    assert grads[0].equal(grads[1])


def test_what_is_known_goes_with_the_storage():
    s = fastlif.LIF()(torch.randn(4, 1000, requires_grad=True))
    view = s[1:].view(-1)
    known = weakref.ref(s.untyped_storage()._fastlif)
    del s
    gc.collect()
    assert spikes.known(view) == spikes.SPIKES and known() is not None
    del view
    assert known() is None
    for _ in range(50):  # fresh tensors at old addresses
        fastlif.LIF()(torch.randn(4, 1000, requires_grad=True))
        assert spikes.known(torch.randn(4, 1000)) is None


def test_double_backward_is_refused():
    net = Net(nn.Linear(7, 4))
    x = torch.randn(4, 2, 7, requires_grad=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(net(x).square().sum(), x, create_graph=True)[0].sum().backward()


def test_spikes_of_a_frozen_block_are_kept_as_bits():
    frozen, trained = fastlif.LIF(), fastlif.PerStep(torch.nn.Linear(64, 4))
    with torch.no_grad():
        s = frozen(torch.randn(5, 8, 64))
    assert fastlif.saved_bytes(trained, s).total == 5 * 8 * 64 // 8


def test_devices_without_autocast():
    net = torch.nn.Sequential(fastlif.LIF(), fastlif.PerStep(torch.nn.Conv2d(2, 3, 3))).to("meta")
    assert net(torch.randn(4, 2, 2, 5, 5, device="meta")).shape == (4, 2, 3, 3, 3)
