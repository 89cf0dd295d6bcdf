"""The command line: python -m bench, and one of the parts below."""

import argparse
import importlib
import sys

from . import machine

PARTS = {
    "layer": "one LIF layer, every contender, checked and timed",
    "batch_norm": "batch norm and LIF as one layer against one after the other",
    "network": "a training step of VGGSNN, every contender: memory and time",
    "onm": "a training step of Linear n -> n and neurons over many steps",
    "overhead": "a call's own time on a tiny tensor",
    "tet": "temporal efficient training against standard training, on small data",
    "train": "training steps of `fastlif train`: VGGSNN on event-digits-48, memory and time",
    "methods": "methods side by side: what each keeps and takes, how right it is",
    "local": "local truncated BPTT over windows and blocks, on small data",
    "bloctrain": "BlocTrain against training end to end, on small data",
    "gpu": "build, GPU tests, sanitizers and benchmarks of a GPU within minutes",
    "targets": "which targets of a GPU a results folder meets",
    "readme": "the README's section on GPUs, from the results",
    "report": "table and plot of a result file",
    "peak": "peak memory of one contender in this process (used by the others)",
}


def main(arguments: list[str]) -> int:
    from . import gpu

    if arguments[:1] == ["gpu"]:  # before torch and all that needs it
        return gpu.main(arguments[1:])
    parser, parts = parser_and_parts()
    args = parser.parse_args(arguments)
    if args.command in ("report", "peak", "targets", "readme"):
        return parts[args.command].main(args)
    machine.run_keeping_pages(arguments)
    return parts[args.command].main(args, arguments)


def parser_and_parts() -> tuple[argparse.ArgumentParser, dict]:
    """The parser of every part, and the modules by name."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks of fastlif against other libraries."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {name: importlib.import_module(f".{name}", __package__) for name in PARTS}
    for name, module in parts.items():
        module.add_arguments(commands.add_parser(name, help=PARTS[name]))
    return parser, parts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
