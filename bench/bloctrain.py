"""The study of BlocTrain: block by block against end to end on digits and event-digits; ResNet-9's memory and time.

Trains small networks (Srinivasan & Roy 2021, figures 4 to 6 and 10), side by side in one process for each core. What is
done is kept in --folder, so that the command can be interrupted and given again. ResNet-9 (figure 11) is measured on
random input of CIFAR-10's shape.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fastlif.analysis import at_confidences, classes_of
from fastlif.cost.bloctrain import parameter_overhead, training_memory
from fastlif.losses import sdt_loss
from fastlif.memory import saved_bytes
from fastlif.models import BlocNet, build
from fastlif.train import Bptt, Config, load, recipe, run
from fastlif.train import build as make
from fastlif.train.bloctrain import BlocTrain
from fastlif.train.side_by_side import side_by_side
from fastlif.train.spike_cache import SpikeCache

from . import bloctrain_report, machine
from .results import save
from .timing import alternate

DATA = ("digits", "event-digits")
VARIANTS = {
    "BlocTrain": {"cache": "off"},
    "BlocTrain, cached": {"cache": "on"},
    "BlocTrain, no residuals": {"cache": "off", "residuals": False},
    "BlocTrain-base": {"cache": "off", "base": True},
    "end to end": {"method": "bptt"},
}
CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--epochs", type=int, default=12, help="of each block, and end to end")
    parser.add_argument("--steps", type=int, default=8, help="T at which ResNet-9 is measured")
    parser.add_argument("--batch", type=int, default=32, help="samples at which ResNet-9 is measured")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/bloctrain"), help="where networks are kept")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/bloctrain.json")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Train what is not trained yet, measure ResNet-9, save the JSON, the tables and the plots."""
    head = machine.describe(command) | {"benchmark": "bloctrain", "seeds": args.seeds, "epochs": args.epochs}
    found = side_by_side(dict(jobs(args.seeds, args.epochs)), do, args.folder, args.processes)
    machine.warn_if_busy()
    times = {data: small(data, args.repeats) for data in DATA}
    measured = resnet9(args.steps, args.batch, args.repeats)
    path = args.out or Path(__file__).parent / "results" / "bloctrain.json"
    save(path, head | {"processes": args.processes, "rows": list(found.values()), "times": times, "resnet9": measured})
    print(bloctrain_report.write(path))
    return 0


def jobs(seeds: int, epochs: int) -> Iterator[tuple[str, Config]]:
    """(name, config) of every run: data/variant/seed."""
    for data in DATA:
        for variant, options in VARIANTS.items():
            for seed in range(seeds):
                given = {**recipe(f"bloctrain/{data}/small"), "epochs": epochs, "device": "cpu", "hardness_std": 0.0}
                yield f"{data}/{variant}/{seed}", Config(**{**given, **options, "seed": seed})


def do(name: str, config: Config, out: Path) -> dict:
    """Train in the folder `out`; what is kept of it, as numbers."""
    trained = run.train(config, out=out, resume=True)
    dataset, found = make.dataset(config), load(out, config.device)
    epochs = [json.loads(line) for line in (out / "fastlif.jsonl").read_text().splitlines()]
    row = {"name": name, "accuracy": trained.test_accuracy, "seconds": [epoch["seconds"] for epoch in epochs]}
    x, _ = next(iter(make.batches(config, dataset, "test", config.steps)))
    row |= {"config": asdict(config), "kept": kept(found.net.train(), x)}
    if not found.net.exits:
        return row
    found.net.eval()
    tests = make.batches(config, dataset, "test", config.steps)
    blocks, whole = training_memory(found.net, config.steps, config.batch_size)
    row |= {"exits": [asdict(one) for one in at_confidences(found.net, tests, config.steps, CONFIDENCES)]}
    row |= {"classes": classes_of(found.net), "memory": {"blocks": blocks, "end to end": whole}}
    return row | {"parameters": parameter_overhead(found.net)}


def kept(net: BlocNet, x: torch.Tensor) -> list[int]:
    """Bytes kept for backward of x [T, B, ...] by each block in turn, or by the network end to end."""
    if not net.exits:
        return [saved_bytes(net, x).total]
    return [saved_bytes(block, *net.feed(number, x)).total for number, block in enumerate(net.blocks)]


def small(data: str, repeats: int) -> dict:
    """Times of a training step on a batch of real samples, of the network of the runs; all classes in every block."""
    config = Config(**{**recipe(f"bloctrain/{data}/small"), "device": "cpu"})
    dataset = make.dataset(config)
    net = make.network(config, "fastlif", dataset.shape, dataset.classes)
    whole = make.network(replace(config, method="bptt"), "fastlif", dataset.shape, dataset.classes)
    x, y = next(iter(make.train_batches(config, dataset, config.steps, torch.Generator().manual_seed(0))))
    return {"batches": len(dataset.train) // config.batch_size, "steps": times(net, whole, x, y, repeats)}


def resnet9(steps: int, batch: int, repeats: int) -> dict:
    """Memory, by the paper's count and kept, and times of ResNet-9's blocks and of all end to end."""
    torch.manual_seed(0)
    net, whole = build("bloc-resnet9"), build("bloc-resnet9", exits=False)
    x, y = torch.rand(steps, batch, 3, 32, 32).round(), torch.arange(batch) % 10
    blocks, (all_layers,) = kept(net, x), kept(whole, x)
    fewer = max(1, batch * max(blocks) // all_layers)
    paper = {str(size): training_memory(net, 100, size) for size in (64, 1)}
    return {"steps": steps, "batch": batch, "smaller_batch": fewer, "kept": blocks, "kept_end_to_end": all_layers,
            "paper": paper, "times": times(net, whole, x, y, repeats, fewer)}  # fmt: skip


def times(net: BlocNet, whole: BlocNet, x: torch.Tensor, y: torch.Tensor, repeats: int, fewer: int = 0) -> dict:
    """Steps of all blocks, on x and on cached spikes, and end to end, also with `fewer` samples; alternating."""
    bptt = Bptt(whole, torch.optim.Adam(whole.parameters()), loss=sdt_loss)
    calls = {"end to end": lambda: bptt.step(x, y)}
    if fewer:
        calls["end to end, equal memory"] = lambda: bptt.step(x[:, :fewer], y[:fewer])
    for number in range(len(net.blocks)):
        method = BlocTrain(net, number, torch.optim.Adam)
        calls[f"block {number + 1}"] = lambda method=method: method.step(x, y)
        if number:
            cached, cache = BlocTrain(net, number, torch.optim.Adam, cached=True), cache_of(net, number, x, y)
            calls[f"block {number + 1}, cached"] = lambda cached=cached, cache=cache: cached.step(*next(iter(cache)))
    return alternate(calls, "cpu", range(repeats))


def cache_of(net: BlocNet, number: int, x: torch.Tensor, y: torch.Tensor) -> SpikeCache:
    """The filled cache of one batch."""
    cache = SpikeCache(net, number, OneBatch([(x, y)]), len(y), len(y), torch.Generator())
    cache.fill()
    return cache


class OneBatch(list):
    """A batch as `SpikeCache` takes it."""

    @property
    def steps(self) -> int:
        """T."""
        return len(self[0][0])
