"""fastlif.compact: any network, through hooks, copies, checkpoints and compilers, equal to the dense network."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import fastlif
from fastlif.memory.compact import Compacted
from fastlif.memory.hooks import spikes_as_bits

STEPS, BATCH = 6, 3


class Fold(nn.Module):
    """PerStep's work by someone else's module."""

    def __init__(self, *modules):
        super().__init__()
        self.module = nn.Sequential(*modules)

    def forward(self, x):
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """Two layers and a residual sum of spikes, which the next layer keeps; `rerun` checkpoints them."""

    def __init__(self, channels, per_step, rerun=None, inplace=False):
        super().__init__()
        self.layers = nn.Sequential(
            per_step(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
            fastlif.LIF(surrogate="rectangle"),
            per_step(nn.Conv2d(channels, channels, 3, padding=1)),
            fastlif.LIF(surrogate="rectangle"),
        )
        self.rerun, self.inplace = rerun, inplace

    def forward(self, x):
        y = self.layers(x) if self.rerun is None else checkpoint(self.layers, x, use_reentrant=self.rerun)
        if self.inplace:
            y += x
            return y
        return x + y


def network(per_step=Fold, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        per_step(nn.Conv2d(2, 8, 3, padding=1)),
        fastlif.LIF(surrogate="rectangle"),
        Block(8, per_step, **options),
        per_step(nn.AvgPool2d(2)),
        Block(8, per_step, **options),
        per_step(nn.Dropout(0.2), nn.Conv2d(8, 8, 1)),
        fastlif.LIF(surrogate="rectangle"),
        per_step(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 5)),
        fastlif.LI(0.9),
    )


def x_for(net=None, steps=STEPS):
    return torch.randn(steps, BATCH, 2, 12, 12)


def gradients(run, net, x):
    torch.manual_seed(1)
    net.zero_grad()
    x = x.clone().requires_grad_()
    y = run(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


def agree(found, want):
    return all(a.equal(b) for a, b in zip(found, want, strict=True))


@pytest.mark.parametrize("per_step", (Fold, fastlif.PerStep))
@pytest.mark.parametrize("options", ({}, {"inplace": True}, {"rerun": True}, {"rerun": False}), ids=str)
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_equal_to_dense(per_step, options, layout):
    net = network(per_step, **options).to(memory_format=layout)
    x = x_for()
    dense = network(**options).to(memory_format=layout)
    want = gradients(dense, dense, x)
    with fastlif.compact():
        assert agree(gradients(net, net, x), want)
    assert fastlif.compact(net) is net
    assert agree(gradients(net, net, x), want)
    if not options:
        leaf = x.requires_grad_()
        assert fastlif.saved_bytes(net, leaf).total < 0.45 * fastlif.saved_bytes(dense, leaf).total


@pytest.mark.parametrize("reentrant", (True, False))
def test_inside_checkpoint(reentrant):
    x, dense, net = x_for(), network(), fastlif.compact(network())
    want = gradients(dense, dense, x)
    assert agree(gradients(lambda x: checkpoint(net, x, use_reentrant=reentrant), net, x), want)
    assert fastlif.saved_bytes(lambda x: checkpoint(net, x, use_reentrant=False), x.requires_grad_()).total == 0


def test_autocast():
    x, dense, net = x_for(), network(), fastlif.compact(network())
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(gradients(net, net, x), gradients(dense, dense, x))


def test_bytes_kept_agree_with_resident_memory():
    """Three linear layers read the same spikes through a foreign function: one plane and no more is alive."""
    x, weights = torch.randn(64, 2000) * 2, [torch.randn(2000, 10, requires_grad=True) for _ in range(3)]

    def run():
        s = fastlif.LIF(surrogate="pass_through")(x)
        return sum(torch.einsum("tn,no->to", s, w).sum() + (s * w[:, 0]).sum() for w in weights)

    def held():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            y = run()
        assert y.requires_grad
        return sum(event.self_cpu_memory_usage for event in profile.key_averages())

    many, dense = held(), torch.autograd.grad(run(), weights)
    with fastlif.compact():
        few, counted = held(), fastlif.saved_bytes(fastlif.compact(Run(run))).total
        assert agree(torch.autograd.grad(run(), weights), dense)
    assert many >= 64 * 2000 * 4
    assert counted == 64 * 2000 // 8 and few <= counted + 20_000


class Run(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self):
        return self.run()


def test_changes_in_place_are_detected():
    w = torch.randn(5, requires_grad=True)
    for change in (lambda s, d: s.add_(1), lambda s, d: d.mul_(2), lambda s, d: s[0].zero_()):
        s, d = fastlif.LIF()(torch.randn(4, 5)), torch.randn(4, 5)
        with fastlif.compact():
            y = (s * w).sum() + (d * w).sum()
        change(s, d)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
    s = fastlif.LIF()(torch.randn(4, 5)).mul_(3)
    with fastlif.compact():
        y = (s * w).sum()
    y.backward()
    assert w.grad.equal(s.sum(0))


def test_hooks_outside_get_the_codes_and_hooks_may_be_nested():
    handed, returned = [], []
    w = torch.randn(500, requires_grad=True)

    def pack(t):
        handed.append(t)
        return len(handed) - 1

    def unpack(i):
        returned.append(i)
        return handed[i]

    s = fastlif.LIF()(torch.randn(40, 500) * 2)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack), fastlif.compact(), spikes_as_bits():
        y = (s * w).sum()
    y.backward()
    assert w.grad.equal(s.sum(0)) and returned
    assert all(t.untyped_storage().nbytes() <= 40 * 500 // 4 for t in handed)


MAKERS = (
    lambda x: x.to_sparse_csr(),
    lambda x: torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged),
    lambda x: torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.strided),
)


@pytest.mark.parametrize("make", MAKERS, ids=("sparse", "jagged", "nested"))
def test_tensors_without_ordinary_storage_are_kept_as_before(make):
    x, w = make(torch.randn(6, 5)), torch.randn(3, 5, requires_grad=True)

    def run():
        return sum(row.square().sum() for row in nn.functional.linear(x, w).unbind())

    with fastlif.compact():
        first, second = run(), run()
    assert agree(torch.autograd.grad(first, w), torch.autograd.grad(run(), w))
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(second, w)


@pytest.mark.parametrize("size, view", (((64, 40), torch.t), ((40, 70), lambda w: w[:, 3:67])), ids=("tied", "columns"))
@pytest.mark.parametrize("order", ((0, 1, 2), (1, 2, 0)))
def test_linear_with_weights_that_are_views(size, view, order):
    w, x = torch.randn(size, requires_grad=True), torch.randn(64, 5, 64, requires_grad=True)

    def run():
        s = fastlif.LIF()(x)
        y = nn.functional.linear(s.permute(order), view(w))
        return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), (s, w))]

    want = run()
    with fastlif.compact():
        found = run()
    assert agree(found, want) and [t.stride() for t in found] == [t.stride() for t in want]


HEADS = [nn.Linear(12, 4)], [nn.Conv2d(2, 4, 3)], [nn.MaxPool2d(2), nn.Conv2d(2, 4, 3)]


@pytest.mark.parametrize("head", HEADS, ids=("linear", "convolution", "max pool"))
def test_double_backward_is_refused_through_spikes_alone(head):
    first, x = nn.Linear(12, 12), x_for()
    found = []
    for per_step, wrap in ((Fold, nn.Identity()), (fastlif.PerStep, nn.Identity()), (Fold, fastlif.compact)):
        y = wrap(nn.Sequential(first, fastlif.LIF(), per_step(*head)))(x)
        once = torch.autograd.grad(y.square().sum(), head[-1].weight, create_graph=True)[0]
        found.append([once, *torch.autograd.grad(once.square().sum(), head[-1].weight, retain_graph=True)])
    assert agree(found[1], found[0]) and agree(found[2], found[0])
    for once, _ in found[1:]:
        with pytest.raises(RuntimeError, match="double backward through spikes kept as bits"):
            torch.autograd.grad(once.square().sum(), first.weight)


def test_a_compacted_network_is_itself():
    net = network()
    before = net.state_dict()
    assert fastlif.compact(net) is net and fastlif.compact(net) is net
    assert (
        isinstance(net, nn.Sequential)
        and type(net).__name__ == "Sequential"
        and type(net).__mro__.count(Compacted) == 1
    )
    assert list(net.state_dict()) == list(before)
    x = x_for()
    want = gradients(net, net, x)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(buffer, weights_only=False)):
        assert isinstance(twin, Compacted) and isinstance(twin, nn.Sequential)
        found = gradients(twin, twin, x)
        assert agree(found[1:], want[1:]) and not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
    with torch.no_grad():
        assert not net(x).requires_grad


def test_errors_leave_nothing_behind():
    net = fastlif.compact(network())
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 3, 5, 5))
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert torch._C._len_torch_function_stack() == 0


def test_refusals_name_the_module_and_the_reason():
    scripted = nn.Sequential(nn.Identity(), torch.jit.script(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"cannot serve '1', a .*: TorchScript runs outside"):
        fastlif.compact(scripted)
    with pytest.raises(TypeError, match=r"torch.compile\(fastlif.compact\(net\)\) instead"):
        fastlif.compact(torch.compile(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="a DataParallel: its threads"):
        fastlif.compact(nn.DataParallel(nn.Linear(2, 2)))
    patched = nn.Linear(2, 2)
    patched.forward = patched.forward
    with pytest.raises(TypeError, match="a Linear whose forward was set on the instance"):
        fastlif.compact(patched)
    with pytest.raises(TypeError, match="needs a module"):
        fastlif.compact(torch.nn.functional.relu)


@pytest.mark.parametrize("inner", ("aot_eager", "inductor"))
@pytest.mark.parametrize("which", ("PerStep", "compact"))
def test_compiled(which, inner):
    torch._dynamo.reset()
    dense, net = network().eval(), network(fastlif.PerStep) if which == "PerStep" else fastlif.compact(network())
    net.eval()  # dropout draws other numbers
    counter = CompileCounterWithBackend(inner)
    with torch.compiler.config.patch(force_disable_caches=True):
        ours, theirs = torch.compile(net, backend=counter, fullgraph=True), torch.compile(dense, backend=inner)
        for steps in (4, 6, 7, 9):
            x = x_for(steps=steps)
            assert agree(gradients(ours, net, x), gradients(theirs, dense, x)), steps
        assert counter.frame_count <= 2
        x = x_for().requires_grad_()
        few, many = fastlif.saved_bytes(ours, x).total, fastlif.saved_bytes(theirs, x).total
    assert few < (0.4 if which == "compact" else 0.75) * many, (few, many)
    torch._dynamo.reset()
