"""The course of BlocTrain: block after block, each on the classes that were hard two blocks before (algorithm 1)."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..cost.bloctrain import place
from ..models import BlocNet
from . import build, distributed
from .bloctrain import class_accuracies, split_classes
from .config import Config
from .loop import Batch, Epoch, evaluate, fit
from .method import Method, Outcome, autocast
from .spike_cache import SpikeCache, require_room, spike_bytes

IN_MEMORY = 1e9  # bytes of a cache; a larger one lies in a file


def course(
    config: Config,
    net: BlocNet,
    dataset: data.Data,
    order: torch.Generator,
    found: dict[str, Any] | None,
    on_step: Callable[[Outcome], None],
) -> Iterator[tuple[int, Method, Epoch]]:
    """All epochs that are left of all blocks: (number of the block, its method, the epoch that is over).

    Blocks are added until the validation accuracy reaches config.target, no hard classes are left, or there are no
    more; which of these is said on stderr.

    Raises:
        ValueError: there is no validation part, or it has no samples of a class; a cache that is asked for and does not
            fit, or cannot be.
    """
    check_cache(config, net, len(dataset.train))
    build.bloc_method(config, net, 0, 1)  # or the ValueError that says why not
    steps, epochs, validation = config.steps, config.phases[-1].epochs, None
    if len(dataset.validation):
        validation = build.batches(config, dataset, "validation", steps)
    elif not config.base or config.place or config.target is not None:
        raise ValueError("hard classes, a target and exits need a validation part, and there is none: give held_out")
    done = 0 if found is None else len(found["epochs"])
    for number in range(len(net.blocks)):
        last = (number + 1) * epochs
        if done < last:
            with inputs(config, net, number, dataset, order) as (batches, cached):
                method = build.bloc_method(config, net, number, epochs * len(batches), cached)
                if found is not None and found["phase"] == number:
                    method.load_state_dict(found["method"])
                for epoch in fit(method, batches, last, validation, on_step, done + 1):
                    yield number, method, epoch
            done = last
        if net.depth <= number:
            net.depth = number + 1
            reason = end(config, net, number, validation)
            if reason and number + 1 < len(net.blocks):
                say(f"block {number + 1} of {len(net.blocks)} is the last one: {reason}")
                break
    if config.place:
        kept = place(net, validation, steps)[: net.depth]
        say(f"exits behind blocks {[number + 1 for number, own in enumerate(kept) if own]} of {net.depth}")


def end(config: Config, net: BlocNet, number: int, validation: Collection[Batch] | None) -> str:
    """Block `number` is trained: divide its classes; why no other block follows, or ""."""
    if validation is None:
        return ""
    method = build.bloc_method(config, net, number, 1)
    accuracy = evaluate(method, validation)
    if not config.base:
        with autocast(config.torch_device(), build.precision(config)):
            accuracies = class_accuracies(net, validation, number + 1)
        threshold = split_classes(net, number, accuracies, config.hardness, config.hardness_std)
        hard = net.hard[number + 1].nonzero().flatten().tolist()
        say(f"block {number + 1}: validation {accuracy:.1%}; below {threshold:.1%}, hard, are classes {hard or 'none'}")
        if not hard:
            return "no hard classes are left"
    if config.target is not None and accuracy >= config.target:
        return f"validation {accuracy:.1%} is the target of {config.target:.1%} or more"
    return ""


@contextlib.contextmanager
def inputs(
    config: Config, net: BlocNet, number: int, dataset: data.Data, order: torch.Generator
) -> Iterator[tuple[Collection[Batch], bool]]:
    """(training batches of block `number`, whether they are cached spikes of the blocks before)."""
    known = net.known(number).cpu().numpy()
    own = data.of_classes(dataset, known)
    if not len(own.train):
        raise ValueError(f"the training part has no samples of classes {known.nonzero()[0].tolist()}")
    share = distributed.size()
    config = replace(config, batch_size=min(config.batch_size, len(own.train) // share * share))
    if not number or not caches(config, net, number, own):
        yield build.train_batches(config, own, config.steps, order), False
        return
    plain = build.batches(config, own, "train", config.steps)
    with tempfile.TemporaryDirectory(prefix="fastlif-") as folder:
        options = {"limit": 1e9 * config.cache_limit, "in_memory": IN_MEMORY, "folder": Path(folder)}
        options |= {"precision": build.precision(config)}
        yield SpikeCache(net, number, plain, len(own.train), config.batch_size, order, **options), True


def check_cache(config: Config, net: BlocNet, samples: int) -> None:
    """ValueError where a cache is asked for and cannot be: before training, as far as that can be known."""
    if config.cache == "on" and len(getattr(net, "blocks", ())) > 1:
        require_room(spike_bytes(net, 1, config.steps, samples), samples, 1e9 * config.cache_limit)
    if config.cache == "on" and distributed.size() > 1:
        raise ValueError("the cache of spikes is of one process: leave it out (cache off) under torchrun")
    if config.cache == "on" and config.sigmoid is not None:
        raise ValueError("the cache keeps spikes as bits, and those of sigmoid are none: leave it out (cache off)")


def caches(config: Config, net: BlocNet, number: int, own: data.Data) -> bool:
    """Whether what block `number` learns from is cached: in auto, where that changes nothing and there is room."""
    if config.cache != "auto":
        return config.cache == "on"
    fits = spike_bytes(net, number, config.steps, len(own.train)) <= 1e9 * config.cache_limit
    return fits and distributed.size() == 1 and config.sigmoid is None and is_fixed(config, own)


def is_fixed(config: Config, dataset: data.Data) -> bool:
    """Whether a training sample is the same input in every epoch."""
    varied = dataset.augment is not None or getattr(dataset.train, "varied", False)
    return not varied and dataset.encode is not data.poisson


def say(text: str) -> None:
    """Print on stderr, beside the progress bar."""
    if distributed.rank() == 0:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
