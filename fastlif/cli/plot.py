"""fastlif plot."""

import argparse
import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

from .common import add_data, dataset_of


def add(commands) -> None:
    """The kinds of plots, each with its options."""
    command = commands.add_parser("plot", help="plots of runs and of trained networks")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="kind")

    def kind(name, function, text):
        added = kinds.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        added.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders that fastlif train has left")
        added.add_argument("--out", type=Path, default=Path(f"{name}.png"), help="image: .png, .svg or .pdf")
        added.set_defaults(run=lambda options: function(options) or print(options.out) or 0)
        return added

    kind("curves", curves, "loss and accuracy over the epochs of runs, over or not")
    spikes = kind("spikes", raster, "spikes of one layer for one sample, as a raster and as rates")
    spikes.add_argument("--layer", help="name of the layer; the first that spikes if not given")
    spikes.add_argument("--sample", type=int, default=0, metavar="I", help="number of the sample in its part")
    spikes.add_argument("--steps", type=int, metavar="T", help="time steps; those of training if not given")
    over_time = kind("over-time", accuracy_over_steps, "accuracy at T trained for or not (TET, figures 4 A and 8)")
    shown = [1, 2, 4, 8, 16, 32, 64]
    over_time.add_argument("--steps", type=int, nargs="+", metavar="T", default=shown, help="at which T")
    energy = kind("energy", energy_against_accuracy, "energy of an inference against accuracy (TET, figure 4 B)")
    energy.add_argument("--steps", type=int, nargs="+", metavar="T", default=[1, 2, 4, 8], help="at which T")
    landscape = kind("landscape", landscapes, "both losses in a plane around the weights (TET, figures 2 and 5)")
    landscape.add_argument("--points", type=int, default=21, help="along each direction, odd")
    landscape.add_argument("--extent", type=float, default=0.5, help="of the plane; 1 moves a filter by its own norm")
    landscape.add_argument("--seed", type=int, default=0, help="of the two directions")
    leaving = kind("exits", exits, "exits of a network that bloctrain has left (BlocTrain, figures 5 to 7, 9 and 10)")
    for added in (spikes, over_time, energy, landscape, leaving):
        add_data(added)


def curves(options: argparse.Namespace) -> None:
    """The curves of all epochs that the folders have."""
    from .. import plot

    found = {}
    for folder in options.runs:
        for path in sorted(folder.glob("*.jsonl")):
            name = names(options.runs)[folder]
            name = name if path.stem == "fastlif" else f"{name}, {path.stem}"
            found[name] = [json.loads(line) for line in path.read_text().splitlines()]
        if not any(folder.glob("*.jsonl")):
            raise FileNotFoundError(f"there are no epochs in {folder}: looked for *.jsonl, which fastlif train writes")
    plot.curves(found, options.out)


def raster(options: argparse.Namespace) -> None:
    """The spikes of one layer."""
    from .. import plot
    from ..train import build

    if len(options.runs) > 1:
        raise ValueError(f"spikes are drawn of one network, got {len(options.runs)}")
    ((name, trained, dataset),) = networks(options)
    layer = options.layer or next(iter(plot.spiking_layers(trained.net)), "")
    seen, steps = 0, trained.config.steps if options.steps is None else options.steps
    for x, labels in build.batches(trained.config, dataset, options.part, steps):
        if options.sample < seen + len(labels) and options.sample >= 0:
            sample = options.sample - seen
            fired = plot.record(trained.net, x[:, sample : sample + 1], layer)[:, 0]
            plot.spikes(fired, options.out, f"{name}, {layer}: sample {options.sample}, class {labels[sample]}")
            return
        seen += len(labels)
    raise ValueError(f"sample must be one of the {seen} of the {options.part} part, from 0 on, got {options.sample}")


def accuracy_over_steps(options: argparse.Namespace) -> None:
    """A line for each network."""
    from .. import plot

    series = {name: (options.steps, [seen.accuracy for seen in looks], None) for name, looks in all_looks(options)}
    plot.lines(series, options.out, "T", "accuracy", log=True)


def energy_against_accuracy(options: argparse.Namespace) -> None:
    """A line for each network, a point for each T."""
    from .. import plot

    series = {
        name: ([seen.operations.energy() / 1e3 for seen in looks], [seen.accuracy for seen in looks], None)
        for name, looks in all_looks(options)
    }
    plot.lines(series, options.out, "energy of an inference, nJ", "accuracy")


def landscapes(options: argparse.Namespace) -> None:
    """A row for each network, a column for each loss."""
    from .. import plot
    from ..analysis import loss_landscape
    from ..losses import sdt_loss, tet_loss
    from ..train import build

    found = {}
    for name, trained, dataset in networks(options):
        batches = build.batches(trained.config, dataset, options.part, trained.config.steps)
        losses = {"SDT": sdt_loss, "TET": tet_loss}
        plane = loss_landscape(trained.net, losses, batches, options.points, options.extent, options.seed)
        found[name] = asdict(plane)
    plot.landscapes(found, options.out)


def exits(options: argparse.Namespace) -> None:
    """Accuracy and costs by confidence, samples leaving and classes by block, memory and time of training each."""
    from .. import plot
    from ..analysis import at_confidences, classes_of
    from ..cost.bloctrain import training_memory
    from ..models import BlocNet
    from ..train import build

    if len(options.runs) > 1:
        raise ValueError(f"exits are drawn of one network, got {len(options.runs)}")
    ((name, trained, dataset),) = networks(options)
    net, steps = trained.net, trained.config.steps
    if not isinstance(net, BlocNet) or not net.exits:
        raise ValueError(f"{name} is no network of blocks with exits: fastlif train --method bloctrain leaves one")
    found = at_confidences(net, build.batches(trained.config, dataset, options.part, steps), steps)
    blocks, whole = training_memory(net, steps, trained.config.batch_size)
    epochs = [json.loads(line) for line in (options.runs[0] / "fastlif.jsonl").read_text().splitlines()]
    each = trained.config.epochs
    seconds = [statistics.median(e["seconds"] for e in epochs[n * each : (n + 1) * each]) for n in range(net.depth)]
    plot.exits([asdict(one) for one in found], classes_of(net), [whole / b for b in blocks], seconds, options.out)


def all_looks(options: argparse.Namespace) -> list:
    """(name, what is seen at each of --steps) of all networks."""
    from ..analysis.trained import look

    return [
        (name, [look(trained, dataset, steps, options.part) for steps in options.steps])
        for name, trained, dataset in networks(options)
    ]


def networks(options: argparse.Namespace) -> list:
    """(name, network, data) of all runs."""
    from ..train import load

    found = [(names(options.runs)[path], load(path, options.device)) for path in options.runs]
    if options.batch_size is not None:
        changed = {"batch_size": options.batch_size}
        found = [(name, replace(trained, config=replace(trained.config, **changed))) for name, trained in found]
    return [(name, trained, dataset_of(trained, options)) for name, trained in found]


def names(runs: list[Path]) -> dict[Path, str]:
    """What runs are called: the last parts of their paths, as many as tell them apart."""
    whole = {path: path.resolve().parts for path in runs}
    for parts in range(1, 1 + max(map(len, whole.values()))):
        short = {path: "/".join(whole[path][-parts:]) for path in runs}
        if len(set(short.values())) == len(runs):
            break
    return short
