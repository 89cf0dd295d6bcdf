"""The study of BlocTrain: block by block against end to end on digits and event-digits; ResNet-9's memory and time.

Trains small networks (Srinivasan & Roy 2021, figures 4 to 6 and 10), side by side in one process for each core. What is
done is kept in --folder, so that the command can be interrupted and given again. ResNet-9 (figure 11) is measured on
random input of CIFAR-10's shape.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from fastlif.analysis import at_confidences, classes_of
from fastlif.cost.bloctrain import parameter_overhead, training_memory
from fastlif.losses import sdt_loss
from fastlif.memory import saved_bytes
from fastlif.models import BlocNet, build
from fastlif.train import Bptt, Config, load, recipe, run
from fastlif.train import build as make
from fastlif.train.bloctrain import BlocTrain, joined
from fastlif.train.side_by_side import side_by_side

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
    parser.add_argument("--batch", type=int, default=8, help="samples at which ResNet-9 is measured")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of ResNet-9")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/bloctrain"), help="where networks are kept")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/bloctrain.json")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Train what is not trained yet, measure ResNet-9, save the JSON, the tables and the plots."""
    head = machine.describe(command) | {"benchmark": "bloctrain", "seeds": args.seeds, "epochs": args.epochs}
    found = side_by_side(dict(jobs(args.seeds, args.epochs)), do, args.folder, args.processes)
    measured = resnet9(args.steps, args.batch, args.repeats)
    path = args.out or Path(__file__).parent / "results" / "bloctrain.json"
    save(path, head | {"processes": args.processes, "rows": list(found.values()), "resnet9": measured})
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


def resnet9(steps: int, batch: int, repeats: int) -> dict:
    """Memory, by the paper's count and kept, and times of ResNet-9's blocks and of all end to end."""
    torch.manual_seed(0)
    net, whole = build("bloc-resnet9"), build("bloc-resnet9", exits=False)
    x, y = torch.rand(steps, batch, 3, 32, 32).round(), torch.arange(batch) % 10
    blocks, (all_layers,) = kept(net, x), kept(whole, x)
    small = max(1, batch * max(blocks) // all_layers)
    calls = {
        "end to end": end_to_end(whole, x, y),
        "end to end, equal memory": end_to_end(whole, x[:, :small], y[:small]),
    }
    for number in range(len(net.blocks)):
        calls[f"block {number + 1}"] = BlocTrain(net, number, torch.optim.Adam, cached=False).step
        calls[f"block {number + 1}, cached"] = BlocTrain(net, number, torch.optim.Adam, cached=number > 0).step
    times = alternate({name: call_of(name, call, net, x, y) for name, call in calls.items()}, "cpu", range(repeats))
    paper = {str(size): training_memory(net, 100, size) for size in (64, 1)}
    return {"steps": steps, "batch": batch, "smaller_batch": small, "kept": blocks, "kept_end_to_end": all_layers,
            "paper": paper, "times": times}  # fmt: skip


def end_to_end(net: BlocNet, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """A training step of the whole network."""
    method = Bptt(net, torch.optim.Adam(net.parameters()), loss=sdt_loss)
    return lambda: method.step(x, y)


def call_of(name: str, call: Callable, net: BlocNet, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """A training step without arguments; a cached one is given the spikes of the blocks before."""
    if name.startswith("end"):
        return call
    number = int(name.removeprefix("block ").split(",")[0]) - 1
    given = joined(net.feed(number, x)) if number and name.endswith("cached") else x
    return lambda: call(given, y)
