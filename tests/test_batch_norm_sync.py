"""BatchNormLIF(process_group=True): two processes on halves of a batch equal one on all of it."""

import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import fastlif

SHAPE = (6, 4, 3, 5)


def layer(group):
    torch.manual_seed(0)
    net = fastlif.BatchNormLIF(3, reset="hard", process_group=group)
    with torch.no_grad():
        net.weight.uniform_(0.5, 1.5), net.bias.uniform_(-0.5, 0.5)
    return net


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SHAPE, generator=generator) + 0.3, torch.randn(SHAPE, generator=generator)


def results(net, y, gs):
    y = y.clone().requires_grad_()
    spikes = net(y)
    spikes.backward(gs)
    return dict(
        spikes=spikes.detach(), gy=y.grad, gweight=net.weight.grad, gbias=net.bias.grad, mean=net.running_mean,
        var=net.running_var,
    )  # fmt: skip


def worker(rank, path, out, first):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    y, gs = (t.tensor_split((first,), 1)[rank] for t in data())
    torch.save(results(layer(True), y, gs), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32" or not dist.is_available(), reason="needs gloo")
@pytest.mark.parametrize("first", (2, 3, 4), ids="{} samples on the first rank".format)
def test_two_processes_equal_one(tmp_path, first):
    mp.spawn(worker, (str(tmp_path / "store"), str(tmp_path / "rank"), first), nprocs=2)
    halves = [torch.load(tmp_path / f"rank{rank}") for rank in range(2)]
    whole = results(layer(False), *data())
    for name in ("spikes", "gy"):
        torch.testing.assert_close(torch.cat([h[name] for h in halves], 1), whole[name])
    for name in ("gweight", "gbias"):  # each rank's own, as DistributedDataParallel wants them
        torch.testing.assert_close(halves[0][name] + halves[1][name], whole[name])
    for name in ("mean", "var"):
        for half in halves:
            torch.testing.assert_close(half[name], whole[name])
