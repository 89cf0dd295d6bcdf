"""The command line: fastlif train, bench, plan, info."""

import argparse
import dataclasses
import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 if it failed, 2 for wrong options, 130 if it was interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:
        return bench(argv[1:])
    options = parser().parse_args(argv)
    try:
        return options.run(options)
    except ModuleNotFoundError as error:
        return failed(options, missing(error), 1)
    except ValueError as error:
        return failed(options, str(error), 2)
    except (RuntimeError, OSError) as error:
        return failed(options, str(error), 1)
    except KeyboardInterrupt:
        return failed(options, "interrupted", 130)


def failed(options: argparse.Namespace, message: str, status: int) -> int:
    print(f"fastlif {options.command}: error: {message}", file=sys.stderr)
    return status


def missing(error: ModuleNotFoundError) -> str:
    """The message for a library that is not installed."""
    if error.name in ("matplotlib", "tqdm"):
        return f"training needs {error.name}, which is not installed here; get it with: pip install 'fastlif[train]'"
    return str(error)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from . import __version__

    top = argparse.ArgumentParser(prog="fastlif", description="Fused leaky integrate-and-fire layers for PyTorch.")
    top.add_argument("--version", action="version", version=f"fastlif {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    add_train(commands)
    commands.add_parser(
        "bench", help="run the benchmarks (from a source checkout): fastlif bench --help", add_help=False
    )
    add_plan(commands)
    info = commands.add_parser("info", help="print versions, and which backends can run here or why not")
    info.set_defaults(run=print_info)
    return top


def add_train(commands) -> None:
    """The options of `fastlif train`; their defaults are those of `train.config.Config`."""
    train = commands.add_parser(
        "train",
        help="train a spiking network, and compare with the same network in plain PyTorch",
        description="Train a spiking network twice from the same seed, with naive PyTorch neurons and with fastlif's, "
        "and compare: accuracy, time, memory, gradients. Writes a table, a plot, JSON and the weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    task = train.add_argument_group("what to train")
    task.add_argument("--method", help="bptt: loss of the mean output; tet: of every moment's output")
    task.add_argument("--model", default="convnet", help="name of the network")
    task.add_argument("--data", default="digits", help="name of the data set")
    task.add_argument("--steps", type=int, metavar="T", help="time steps for each sample")
    neuron = train.add_argument_group("the neuron (see fastlif.lif)")
    neuron.add_argument("--decay", type=float, help="what a step leaves of the membrane, 0 to 1")
    neuron.add_argument("--threshold", type=float, help="membrane at which a neuron fires")
    neuron.add_argument("--reset", help="soft, hard or none")
    neuron.add_argument("--detach-reset", action=argparse.BooleanOptionalAction, help="no gradient through the reset")
    neuron.add_argument("--surrogate", help="triangle, rectangle, pass_through, sigmoid, atan or fast_sigmoid")
    neuron.add_argument("--state", help="what fastlif keeps for backward: exact or compact")
    course = train.add_argument_group("how to train")
    course.add_argument("--epochs", type=int, help="passes over the training part")
    course.add_argument("--batch-size", type=int, metavar="B", help="samples a batch")
    course.add_argument("--lr", type=float, help="peak learning rate (AdamW, one cycle)")
    course.add_argument("--weight-decay", type=float, help="weight decay of AdamW")
    course.add_argument("--label-smoothing", type=float, help="of the cross-entropy")
    course.add_argument("--lam", type=float, help="tet: weight of the squared distance of outputs from the threshold")
    course.add_argument("--seed", type=int, help="of the weights, the order of samples and their variation")
    course.add_argument("--device", help="cpu, cuda, cuda:1, ...; auto is a GPU if there is one")
    course.add_argument(
        "--compare", action=argparse.BooleanOptionalAction, default=True, help="train the naive twin too"
    )
    course.add_argument("--resume", action="store_true", help="continue the run in --out from its last whole epoch")
    course.add_argument("--out", type=Path, help="folder for the results; runs/<data>-<model>[-number] if not given")
    from .train.config import Config

    train.set_defaults(run=run_train, **vars(Config()))


def run_train(options: argparse.Namespace) -> int:
    from .train.config import Config
    from .train.report import train

    config = Config(**{name: getattr(options, name) for name in vars(Config())})
    train(config, options.out, options.compare, options.resume)
    return 0


def add_plan(commands) -> None:
    """The options of `fastlif plan`."""
    plan = commands.add_parser(
        "plan",
        help="predict the memory that training takes, and choose what fits a budget",
        description="Predict from shapes alone what a training step of a network keeps and takes at its peak, for each "
        "choice of what is kept for backward, and name the fastest that fits the budget (see fastlif.plan).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    plan.add_argument("--model", default="convnet", help="name of the network")
    plan.add_argument("--steps", type=int, default=10, metavar="T", help="time steps for each sample")
    plan.add_argument("--batch", type=int, default=16, metavar="B", help="samples a batch")
    plan.add_argument("--shape", type=int, nargs=3, default=(2, 48, 48), metavar=("C", "H", "W"), help="of a sample")
    plan.add_argument("--classes", type=int, default=10, help="number of classes")
    plan.add_argument("--budget", help="of the peak, in bytes or like '1.5 GB'; no limit if not given")
    plan.add_argument("--reset", help="soft, hard or none; the network's own if not given")
    plan.add_argument("--surrogate", help="name of the surrogate derivative; the network's own if not given")
    plan.add_argument("--batch-norm-lif", action="store_true", help="batch norm and neurons as one layer")
    plan.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    plan.set_defaults(run=print_plan)


def print_plan(options: argparse.Namespace) -> int:
    from . import BatchNormLIF, models, plan

    changed = {name: value for name in ("reset", "surrogate") if (value := getattr(options, name)) is not None}
    extra = {}
    if options.model in models.MODELS:
        neurons = inspect.signature(models.MODELS[options.model]).parameters["neurons"].default
        extra["neurons"] = neurons = functools.partial(neurons, **changed)
        if options.batch_norm_lif:
            extra["norm_neurons"] = functools.partial(BatchNormLIF, **neurons.keywords)
    net = models.build(options.model, options.shape, options.classes, **extra)
    found = plan(net, (options.steps, options.batch, *options.shape), options.budget)
    print(json.dumps(dataclasses.asdict(found), indent=1) if options.json else found)
    return 0


def print_info(options: argparse.Namespace) -> int:
    from . import info

    print(info())
    return 0


def bench(argv: list[str]) -> int:
    """Hand over to `python -m bench`, which is part of the source checkout only."""
    if not (CHECKOUT / "bench" / "__main__.py").exists():
        print("fastlif bench: error: the benchmarks are not installed; run this in a source checkout", file=sys.stderr)
        return 1
    return subprocess.call([sys.executable, "-m", "bench", *argv], cwd=CHECKOUT)


if __name__ == "__main__":
    sys.exit(main())
