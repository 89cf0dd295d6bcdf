"""fastlif grid."""

import argparse
from pathlib import Path

from .train import add_config, config_of

POINT = {"window": "", "block": None, "classifiers": "trainable"}  # options of a run, which the grid has of its own


def add(commands) -> None:
    """The options of `fastlif grid`: a recipe, the options of training, and the points."""
    command = commands.add_parser(
        "grid",
        help="train in windows of k steps and blocks of n layers, for many (k, n): accuracy, memory, costs",
        description="Local truncated BPTT over a grid of window lengths and block sizes, and end to end beside it. "
        "What is done is kept in --out: interrupted anywhere, the same command goes on from there.",
    )
    add_config(command, without=tuple(POINT))
    points = command.add_argument_group("the grid")
    points.add_argument("--windows", type=int, nargs="+", metavar="K", required=True, help="steps of a window")
    points.add_argument("--blocks", type=int, nargs="+", metavar="N", required=True, help="layers of a block; 0: all")
    points.add_argument(
        "--kinds", "--classifiers", nargs="+", default=["trainable"], help="of classifiers: trainable, random or both"
    )
    points.add_argument("--seeds", type=int, default=3, help="runs of each")
    points.add_argument("--processes", type=int, help="runs side by side; as many as GPUs, or cores, if not given")
    points.add_argument("--out", type=Path, default=Path("runs/grid"), help="folder for runs, tables and pictures")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train what is missing, then write the table and the pictures."""
    from ..train import grid

    config = config_of(options, method="local-bptt", **POINT)
    blocks = [n or None for n in options.blocks]
    rows = grid.grid(config, options.windows, blocks, options.kinds, options.seeds, options.out, options.processes)
    path = grid.save(rows, config, options.out)
    print(f"{grid.table(rows)}\n{path}")
    return 0
