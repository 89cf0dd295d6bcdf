"""The study of local truncated BPTT: LeNet-1 and AlexNet on digits and event-digits, over k and n.

Trains a grid of windows, blocks and kinds of classifiers for each (Guo et al. 2023, figures 3 to 7 and 9 to 15, on
small data), side by side in one process for each core, and measures memory and time of every point by itself. What is
done is kept in --folder, so that the command can be interrupted and given again.
"""

import argparse
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from fastlif.cost import kept
from fastlif.train import Config, build, grid, recipe

from . import local_report, machine
from .results import save
from .train import memory_and_time

KINDS = ("trainable", "random")
SHORT = dict(lr_decay="cosine", lr=3e-3)
NARROW = dict(model="alexnet", width=1 / 16)
DIGITS = dict(steps=10, epochs=40)
EVENTS = dict(steps=20, period=48, epochs=15)  # 20 frames of 48 of the 960 ticks
LONG = dict(steps=60, period=15)  # as the recipe: for the bytes kept over k


@dataclass(frozen=True)
class Study:
    """A grid: a recipe and what replaces its options, k and n (None: all layers)."""

    recipe: str
    options: dict
    windows: tuple[int, ...]
    blocks: tuple[int | None, ...]

    def config(self, **more: object) -> Config:
        """The options of its runs but window, block, classifiers and seed."""
        return Config(**{**recipe(self.recipe), **SHORT, **self.options, **more})


STUDIES = {
    "digits/lenet1": Study("local/digits/lenet1", DIGITS, (10, 5, 2, 1), (None, 2, 1)),
    "event-digits/lenet1": Study("local/event-digits/lenet1", EVENTS, (20, 10, 5, 2, 1), (None, 2, 1)),
    "digits/alexnet": Study("local/digits/lenet1", NARROW | DIGITS | {"epochs": 20}, (10, 5, 2, 1), (None, 4, 1)),
    "event-digits/alexnet": Study("local/event-digits/lenet1", NARROW | EVENTS | {"epochs": 10}, (20, 5, 1), (None, 1)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="some of the studies")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each point")
    parser.add_argument("--epochs", type=int, help="of each run; the study's own if not given")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each point; 0 for none, nor peaks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/local"), help="where networks are kept")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/local.json")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Train what is not trained yet, measure, save the JSON, the tables and the plots."""
    head = machine.describe(command) | {"benchmark": "local", "seeds": args.seeds, "processes": args.processes}
    more = {"device": args.device} | ({"epochs": args.epochs} if args.epochs else {})
    rows, measured, configs = [], [], {}
    for name in args.only:
        study, config = STUDIES[name], STUDIES[name].config(**more)
        points = study.windows, study.blocks, KINDS, args.seeds
        found = grid.grid(config, *points, args.folder / name, args.processes)
        rows += [{"study": name, **row} for row in found]
        configs[name] = asdict(config)
    if args.repeats:
        machine.warn_if_busy()
        for name in args.only:
            points = at_points(STUDIES[name], STUDIES[name].config(**more))
            measured += [{"study": name, **row} for row in memory_and_time(points, args.repeats)]
    path = args.out or Path(__file__).parent / "results" / "local.json"
    found = {"configs": configs, "rows": rows, "measured": measured, "kept": over_windows()}
    save(path, head | found)
    print(local_report.write(path))
    return 0


def at_points(study: Study, config: Config) -> dict[str, tuple[Config, str]]:
    """(config, kind of layers) of every point with trainable classifiers, by the name `local_report.point` gives it."""
    return {
        local_report.point(k, n): (replace(config, window=str(k), block=n), "fastlif")
        for n in study.blocks
        for k in study.windows
    }


def over_windows() -> list[dict]:
    """Bytes kept for backward by LeNet-1 over T = 60 steps for every k and n, and what the paper's scheme would keep.

    That runs step by step, so that of a window of k steps the graphs of k - 1 steps of all blocks are alive, and of the
    largest block that of one more (section 4.1).
    """
    config = STUDIES["event-digits/lenet1"].config(**LONG)
    shape, steps = (2, 16, 16), config.steps
    net = build.network(replace(config, device="cpu"), "fastlif", shape, 10)
    x = torch.zeros(steps, config.batch_size, *shape)
    found = []
    for n in (None, 2, 1):
        for k in (60, 30, 20, 10, 5, 2, 1):
            own = kept(net, x, k=k, n=n)
            paper = ((k - 1) * sum(own.blocks) + own.most) / k
            found.append({"k": k, "n": n, "kept": own.most, "paper": paper, "membranes": own.membranes})
    return found
