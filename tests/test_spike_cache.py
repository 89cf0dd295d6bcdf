"""SpikeCache: what a block is given, as bits: the same spikes, in another order each pass, in memory and in a file."""

import functools

import numpy as np
import pytest
import torch
from test_bloc import make, twice
from torch.utils.data import TensorDataset

from fastlif import data, models
from fastlif.memory import spikes
from fastlif.models.bloc import Plan
from fastlif.train.bloctrain import BlocTrain, joined, unjoin
from fastlif.train.method import autocast
from fastlif.train.spike_cache import SpikeCache

sgd = functools.partial(torch.optim.SGD, lr=1.0)
SMALL = [Plan((3,)), Plan((5, (3, 3, 2))), Plan((4,), skip=0, earlier=(0,))]  # features not a multiple of 8


def narrow(kind):
    """(network in float32, shape, its last block)."""
    if kind == "vgg16":
        torch.manual_seed(0)
        return twice(models.build("bloc-vgg16", (3, 32, 32), 4, width=1 / 16)).float(), (3, 32, 32), 3
    return make(plans=SMALL, shape=(1, 5, 5)).float(), (1, 5, 5), 2


class Counted:
    """Batches in order, counting the passes."""

    def __init__(self, net, shape, samples, batch_size, steps=3):
        generator = torch.Generator().manual_seed(1)
        images = 2 * torch.rand(samples, *shape, generator=generator)
        self.plain = data.Batches(TensorDataset(images, torch.arange(samples)), batch_size, steps)
        self.steps, self.passes = steps, 0

    def __len__(self):
        return len(self.plain)

    def __iter__(self):
        self.passes += 1
        return iter(self.plain)


def cache_of(net, number, batches, batch_size=4, seed=0, **options):
    return SpikeCache(net, number, batches, 11, batch_size, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("in_memory", [1e9, 0])
@pytest.mark.parametrize(("kind", "number"), [("vgg16", 1), ("vgg16", 3), ("small", 1), ("small", 2)])
def test_the_cache_gives_what_the_network_would(tmp_path, kind, number, in_memory):
    net, shape, _ = narrow(kind)
    batches = Counted(net, shape, 11, 5)
    expected = torch.cat([joined(net.feed(number, x)) for x, _ in batches], 1)
    assert 0 < expected.mean() < 1
    batches.passes = 0
    cache = cache_of(net, number, batches, in_memory=in_memory, folder=tmp_path)
    features = sum(int(np.prod(net.shapes[source + 1])) for source in net.blocks[number].sources)
    assert expected.shape == (3, 11, features)
    assert cache.nbytes == 11 * 3 * -(-features // 8)
    orders = []
    for _ in range(3):
        found = [*cache]
        assert [(len(x), x.shape[1], len(y)) for x, y in found] == [(3, 4, 4)] * len(cache) == [(3, 4, 4)] * 2
        for x, y in found:
            assert torch.equal(x, expected[:, y])  # the labels are the samples' numbers
        orders.append([n for _, y in found for n in y.tolist()])
        assert len(set(orders[-1])) == 8
    assert batches.passes == 1 and orders[0] != orders[1] != orders[2]
    files = [path.stat().st_size for path in tmp_path.iterdir()]
    assert files == ([] if in_memory else [cache.nbytes])
    again = cache_of(net, number, Counted(net, shape, 11, 3), in_memory=1e9)
    assert [[n for _, y in again for n in y.tolist()] for _ in range(3)] == orders
    other = cache_of(net, number, batches, seed=1)
    assert [n for _, y in other for n in y.tolist()] != orders[0]


def test_the_cache_is_filled_at_the_precision_of_training():
    net, shape, _ = narrow("vgg16")
    batches = Counted(net, shape, 11, 5)
    plain = torch.cat([joined(net.feed(3, x)) for x, _ in batches], 1)
    with autocast(torch.device("cpu"), torch.bfloat16):
        expected = torch.cat([joined(net.feed(3, x)) for x, _ in batches], 1)
    assert not torch.equal(expected.float(), plain)
    for x, y in cache_of(net, 3, batches, precision=torch.bfloat16):
        assert torch.equal(x, expected[:, y].float())


def test_spikes_from_the_cache_are_those_of_several_blocks_and_known_as_spikes():
    net, shape, number = narrow("vgg16")
    x, _ = next(iter(Counted(net, shape, 11, 5)))
    sources = net.feed(number, x)
    found = unjoin(net, number, joined(sources))
    assert len(found) == 3 and all(torch.equal(one, other) for one, other in zip(found, sources, strict=True))
    assert all(spikes.known(one) is not None for one in found)


def test_a_step_from_the_cache_is_the_same():
    weights, batches = [], Counted(None, (1, 5, 5), 4, 4)
    for cached in (False, True):
        net, _, number = narrow("small")
        x, y = next(iter(batches))
        method = BlocTrain(net, number, sgd, cached=cached)
        method.step(joined(net.feed(number, x)) if cached else x, y)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


def test_a_cache_that_does_not_fit():
    net, shape, number = narrow("small")
    batches = Counted(net, shape, 11, 5)
    need = 11 * -(-3 * (75 + 27) // 8)
    assert cache_of(net, number, batches, limit=need).nbytes == need
    with pytest.raises(ValueError, match=r"11 samples need 0.0 MB, and the cache may have 0.0 MB: give it more"):
        cache_of(net, number, batches, limit=need - 1)
    with pytest.raises(ValueError, match="batch_size must be at most 11, the number of samples, got 12"):
        cache_of(net, number, batches, 12)
    assert batches.passes == 0
