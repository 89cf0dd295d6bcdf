"""fastlif train."""

import argparse
from dataclasses import fields
from pathlib import Path


def add(commands) -> None:
    """The options of `fastlif train`: those of `train.config.Config`, and where the results go."""
    train = commands.add_parser(
        "train",
        help="train a spiking network, and compare with the same network in plain PyTorch",
        description="Train a spiking network twice from the same seed, with naive PyTorch neurons and with fastlif's, "
        "and compare: accuracy, time, memory, gradients. Writes a table, a plot, JSON and the network. "
        "A recipe has the settings of a published experiment; options beside it replace its own. Under torchrun each "
        "process takes its share of every batch, and the naive twin is left out.",
    )
    add_config(train)
    results = train.add_argument_group("the results")
    results.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="train the naive twin too (default: unless it is a recipe)",
    )
    results.add_argument("--resume", action="store_true", help="continue the run in --out from its last whole epoch")
    results.add_argument("--tensorboard", action="store_true", help="write the epochs for TensorBoard too")
    results.add_argument("--out", type=Path, help="folder for the results; runs/<data>-<model>[-number] if not given")
    train.set_defaults(run=run)


def add_config(command: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """A recipe, and the options of `train.config.Config`, but for some."""
    from ..train.config import Config
    from ..train.recipes import RECIPES

    command.epilog = f"recipes: {', '.join(RECIPES)}"
    command.add_argument("recipe", nargs="?", help="name of a recipe, see below; without one these defaults hold")
    groups = {}
    for own in (own for own in fields(Config) if own.name not in without):
        about = dict(own.metadata)
        group = about.pop("group")
        if group not in groups:
            groups[group] = command.add_argument_group(group)
        if own.default not in (None, ""):
            about["help"] += f" (default: {own.default})"
        if isinstance(own.default, bool):
            about["action"] = argparse.BooleanOptionalAction
        elif own.default is not None:
            about.setdefault("type", type(own.default))
        groups[group].add_argument("--" + own.name.replace("_", "-"), **about, default=argparse.SUPPRESS)


def config_of(options: argparse.Namespace, **more: object):
    """The `Config` that was given: the recipe's options, `more`, and those on the command line.

    Raises:
        ValueError: an option of one method beside another, which would take no notice of it.
    """
    from ..train.config import BLOCS, LOCAL, Config
    from ..train.recipes import recipe

    given = {own.name: getattr(options, own.name) for own in fields(Config) if own.name in options}
    base = {} if options.recipe is None else recipe(options.recipe)
    config = Config(**{**base, **more, **given})
    for group, method in {LOCAL: "local-bptt", BLOCS: "bloctrain"}.items():
        own = [own.name for own in fields(Config) if own.name in given and own.metadata["group"] == group]
        if own and config.method != method:
            name = own[0].replace("_", "-")
            raise ValueError(f"--{name} is for --method {method}, and the method is {config.method}")
    return config


def run(options: argparse.Namespace) -> int:
    """Train."""
    from ..train.report import ALONE, train

    compared, config = options.recipe is None if options.compare is None else options.compare, config_of(options)
    if options.compare and config.method in ALONE:
        raise ValueError(f"--compare: {config.method} has no naive twin, whose layers it could train")
    train(config, options.out, compared, options.resume, options.tensorboard)
    return 0
