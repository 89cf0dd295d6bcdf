"""Spikes kept as bits in graphs that torch.compile traces: gradients against the network kept dense, and bytes."""

import gc
import io

import pytest
import torch
from test_spikes import Fold, Net, gradients
from torch import nn
from torch._dynamo.output_graph import OutputGraph
from torch.utils.checkpoint import checkpoint

import fastlif

BACKENDS = ("eager", "aot_eager", "inductor")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    with torch.compiler.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


class Do(nn.Module):
    """A function, then a linear layer if it has an input size."""

    def __init__(self, function, size=None):
        super().__init__()
        self.function, self.last = function, nn.Identity() if size is None else nn.Linear(size, 5)

    def forward(self, x):
        return self.last(self.function(x))


def agree(compiled, dense, x, parameters=()):
    for got, want in zip(gradients(compiled, x, *parameters), gradients(dense, x, *parameters), strict=True):
        torch.testing.assert_close(got, want)


def same(module, x, between=lambda s: s, ratio=None, backend="aot_eager"):
    """Compiled in one graph equal to the dense network, eager, keeping at most `ratio` of its bytes."""
    net, dense = Net(module, between), Net(module, between, Fold)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    agree(compiled, dense, x, list(module.parameters()))
    if ratio is not None:
        few, many = kept(compiled, x), kept(dense, x)
        assert few <= ratio * many, (few, many)


def kept(run, x):
    """Bytes."""
    return fastlif.saved_bytes(lambda x: run(x), x.clone().requires_grad_()).total


def images(layout=torch.channels_last):
    return torch.randn(5 * 2, 3, 6, 6).to(memory_format=layout).unflatten(0, (5, 2))


INSIDE = {
    "flatten": Do(lambda x: x.flatten(1), 108),
    "flatten, function": Do(lambda x: torch.flatten(x, 2), 36),
    "reshape": Do(lambda x: x.reshape(x.shape[0], -1), 108),
    "reshape, function": Do(lambda x: torch.reshape(x, (10, -1)), 108),
    "permute": Do(lambda x: x.permute(0, 3, 2, 1), 3),
    "cast": Do(lambda x: x.double().float().contiguous(), 6),
    "expand": Do(lambda x: x[:, :1].expand(-1, 3, -1, -1), 6),
    "overlapping": Do(lambda x: x.as_strided((10, 3, 6, 6), (108, 1, 2, 3)), 6),
    "flipped": Do(lambda x: x.flip(-1), 6),
    "same": nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    "uneven same": nn.Conv2d(3, 4, 2, padding="same"),
    "valid": nn.Conv2d(3, 4, 3, padding="valid", stride=2),
    "pools": nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 5)),
}


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("which", INSIDE)
def test_inside(which, layout):
    same(INSIDE[which], images(layout), ratio=0.3 if which in ("permute", "same", "valid", "pools") else None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flatten_that_copies(backend):
    same(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), images(), ratio=0.3, backend=backend)


BETWEEN = {
    "steps": lambda s: s[1:4],
    "transposed": lambda s: s.transpose(0, 1),
    "expanded": lambda s: s[:, :, :1].expand(-1, -1, 3, -1, -1),
    "copied": lambda s: s.contiguous(),
    "summed": lambda s: s + s,
    "changed": lambda s: s.add_(0.5),
    "changed through a view": lambda s: (s[0].mul_(3), s)[1],
    "changed detached": lambda s: (s.detach().mul_(3), s)[1],
    "changed and viewed": lambda s: s.mul_(2).transpose(0, 1),
}


@pytest.mark.parametrize("backend", BACKENDS[:2])
@pytest.mark.parametrize("which", BETWEEN)
def test_between(which, backend):
    ratio = 0.3 if which == "transposed" and backend != "eager" else None
    same(nn.Conv2d(3, 4, 3), images(), BETWEEN[which], ratio, backend)


@pytest.mark.parametrize("backend", BACKENDS[:2])
@pytest.mark.parametrize("change", (lambda s: s, lambda s: s.mul_(2), lambda s: s.detach().mul_(2)))
def test_nothing_is_known_across_graphs(change, backend):
    neurons, linear = fastlif.LIF(surrogate="rectangle"), nn.Linear(7, 4)
    first, last = (torch.compile(part, backend=backend) for part in (neurons, fastlif.PerStep(linear)))

    def one_by_one(x):
        s = first(x)
        change(s)
        return last(s)

    def in_pieces(x):
        s = neurons(x)
        torch._dynamo.graph_break()
        change(s)
        torch._dynamo.graph_break()
        return fastlif.PerStep(linear)(s)

    def dense(x):
        s = neurons(x)
        change(s)
        return linear(s)

    x = torch.randn(4, 2, 7) * 2
    for run in (one_by_one, torch.compile(in_pieces, backend=backend)):
        agree(run, dense, x, list(linear.parameters()))


def test_a_break_inside():
    linear = nn.Linear(7, 4)
    between = Do(lambda x: (torch._dynamo.graph_break(), x * 1)[1])
    nets = [Net(nn.Sequential(nn.Dropout(0.0), between, linear), per_step=kind) for kind in (fastlif.PerStep, Fold)]
    agree(torch.compile(nets[0], backend="aot_eager"), nets[1], torch.randn(4, 2, 7) * 2, list(linear.parameters()))
    assert torch._C._len_torch_function_stack() == 0


def test_what_comes_out_is_a_plain_tensor():
    neurons = torch.compile(fastlif.LIF(), backend="aot_eager", fullgraph=True)
    s = neurons(torch.randn(4, 2, 7, requires_grad=True))
    assert not vars(s) and not hasattr(s.untyped_storage(), "_fastlif")
    buffer = io.BytesIO()
    torch.save(s, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).equal(s)


class Checkpointed(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return checkpoint(self.module, x, use_reentrant=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ("alone", "behind others", "in part", "compact"))
def test_checkpoint_in_a_graph(which, backend):
    conv, linear, before = nn.Conv2d(3, 4, 3), nn.Linear(16, 5), nn.Conv2d(3, 3, 1)

    def made(per_step, run):
        def neurons():
            return fastlif.LIF(surrogate="rectangle")

        body = (neurons(), per_step(nn.Sequential(conv, nn.AvgPool2d(2))), neurons())
        last = per_step(nn.Sequential(nn.Flatten(), linear))
        if which == "in part":
            return nn.Sequential(run(nn.Sequential(*body)), last)
        first = (neurons(), per_step(before)) if which == "behind others" else ()
        return nn.Sequential(*first, run(nn.Sequential(*body, last)))

    net = made(fastlif.PerStep, Checkpointed)
    if which == "compact":
        net = fastlif.compact(net)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    x = images()
    dense = made(Fold, lambda part: part)
    agree(compiled, dense, x, list(net.parameters()))
    if which == "alone" and backend == "aot_eager":
        assert kept(compiled, x) <= 0.4 * kept(dense, x)  # 0 from torch 2.12 on


def test_a_region_traced_once_knows_nothing_of_what_enters_it():
    linear = fastlif.PerStep(nn.Linear(7, 7))
    region = torch.compiler.nested_compile_region(lambda x: linear(x))
    neurons = fastlif.LIF(surrogate="rectangle")

    def run(x, layer):
        known, copied = neurons(layer(neurons(x))), neurons(x).transpose(0, 1).contiguous().transpose(0, 1)
        return layer(known) + layer(copied) + layer(known * 2) + layer(x)

    compiled = torch.compile(lambda x: run(x, region), backend="aot_eager", fullgraph=True)
    agree(compiled, lambda x: run(x, linear), torch.randn(4, 2, 7) * 2, list(linear.parameters()))


def test_graphs_are_freed():
    def graphs():
        torch._dynamo.reset()
        gc.collect()
        return sum(type(o) is OutputGraph for o in gc.get_objects())

    before = graphs()
    compiled = torch.compile(Net(nn.Linear(7, 4)), backend="aot_eager", fullgraph=True)
    compiled(torch.randn(4, 2, 7, requires_grad=True)).sum().backward()
    del compiled
    assert graphs() == before
