"""One training run from a Config, with fastlif's layers or their naive twin, in this process or in a fresh one."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data
from . import bloc_course, build, checkpoint, distributed, measure, saved
from .config import Config
from .local_bptt import LocalBPTT
from .log import Log
from .loop import Epoch, evaluate, fit
from .method import Method, Outcome


@dataclass
class Run:
    """What came of a run. Memory in bytes: the peak, and what the process held when training began.

    Of a run that was interrupted: seconds are those of all its parts, memory that of the part that took most.
    """

    layers: str
    epochs: list[Epoch]
    test_accuracy: float
    seconds: float
    peak_memory: int
    memory_before: int


def train(
    config: Config,
    layers: str = "fastlif",
    out: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    on_epoch: Callable[[Method, Epoch], None] | None = None,
) -> Run:
    """Train, with a progress bar on stderr; test once, at the end, at the last phase's T.

    Args:
        config: all options of the training.
        layers: "fastlif" or "naive".
        out: the folder for a checkpoint after every epoch, {layers}.checkpoint.pt, all epochs so far as JSON Lines,
            {layers}.jsonl, and at the end the network, {layers}.pt; nothing is written unless given.
        resume: continue from the checkpoint there, if there is one; on a CPU to the same weights bit for bit.
        tensorboard: write the epochs for TensorBoard too.
        on_epoch: called after every epoch.
    """
    from tqdm import tqdm

    device, dataset = config.torch_device(), build.dataset(config)
    net = build.network(config, layers, dataset.shape, dataset.classes)
    order, epochs, found = torch.Generator().manual_seed(config.seed), [], None
    kept = None if out is None else out / f"{layers}.checkpoint.pt"
    if resume and kept is not None and kept.exists():
        found = checkpoint.load(kept, config, layers)
        epochs = restore(found, net, order)
    writes = out is not None and distributed.rank() == 0

    spent = Spent(device, found)
    each = len(dataset.train) // config.batch_size
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Log(out, layers, tensorboard, len(epochs) + 1)) if writes else None
        rounds = len(getattr(net, "blocks", [0])) if config.method == "bloctrain" else 1
        steps = each * rounds * sum(phase.epochs for phase in config.phases)
        options = {"desc": f"{layers:8}", "unit": "step", "dynamic_ncols": True, "disable": distributed.rank() > 0}
        bar = stack.enter_context(tqdm(total=steps, initial=each * len(epochs), **options))
        all_epochs = bloc_course.course if config.method == "bloctrain" else course
        for number, method, epoch in all_epochs(config, net, dataset, order, found, lambda outcome: bar.update()):
            epochs.append(epoch)
            bar.set_postfix_str(shown(epoch))
            if on_epoch is not None:
                on_epoch(method, epoch)
            if log is not None:
                log.write(epochs)
                checkpoint.save(kept, config, layers, **state(method, number, order, epochs), **asdict(spent.now()))
    spent = spent.now()
    method = build.method(config, net, config.phases[-1], 1)
    accuracy = evaluate(method, build.batches(config, dataset, "test", config.steps))
    if writes:
        saved.save(out / f"{layers}.pt", net, config, layers, dataset)
    return Run(layers, epochs, accuracy, **asdict(spent))


def course(
    config: Config,
    net: nn.Module,
    dataset: data.Data,
    order: torch.Generator,
    found: dict[str, Any] | None,
    on_step: Callable[[Outcome], None],
) -> Iterator[tuple[int, Method, Epoch]]:
    """All epochs that are left of all phases: (number of the phase, its method, the epoch that is over)."""
    done, last = 0 if found is None else len(found["epochs"]), 0
    earlier = None if found is None else found["method"]
    for number, phase in enumerate(config.phases):
        last += phase.epochs
        if done >= last:
            continue
        batches = build.train_batches(config, dataset, phase.steps, order)
        held_out = len(dataset.validation) > 0
        validation = build.batches(config, dataset, "validation", phase.steps) if held_out else None
        method = build.method(config, net, phase, phase.epochs * len(batches))
        if found is not None and found["phase"] == number:
            method.load_state_dict(found["method"])
            torch.set_rng_state(found["random"])  # making the method has drawn its classifiers
        elif earlier is not None and isinstance(method, LocalBPTT):
            method.load_classifiers(earlier)
        if config.sdt_epochs:
            method.loss = build.loss(config, done + 1)
        for epoch in fit(method, batches, last, validation, on_step, done + 1):
            yield number, method, epoch
            if config.sdt_epochs:
                method.loss = build.loss(config, epoch.number + 1)
        done, earlier = last, method.state_dict()


def shown(epoch: Epoch) -> str:
    """What the progress bar says of an epoch."""
    validation = "" if epoch.validation_accuracy is None else f", validation {epoch.validation_accuracy:.1%}"
    return f"T {epoch.steps}, loss {epoch.loss:.3f}{validation}"


@dataclass
class Taken:
    """Seconds and bytes of a run so far; see `Run`."""

    seconds: float = 0.0
    peak_memory: int = 0
    memory_before: int = 0


class Spent:
    """Measures what a run takes, from now on and, where it is continued, with what the checkpoint has."""

    def __init__(self, device: torch.device, found: dict[str, Any] | None):
        self.device, self.began, self.before = device, time.perf_counter(), measure.memory_now(device)
        self.earlier = Taken(*(found[own.name] for own in fields(Taken))) if found else Taken()

    def now(self) -> Taken:
        """All parts together."""
        own = measure.peak_memory(self.device), self.before
        most = max(own, (self.earlier.peak_memory, self.earlier.memory_before), key=lambda pair: pair[0] - pair[1])
        return Taken(self.earlier.seconds + time.perf_counter() - self.began, *most)


def state(method: Method, phase: int, order: torch.Generator, epochs: list[Epoch]) -> dict[str, Any]:
    """All that the run needs after these epochs."""
    return {
        "weights": method.net.state_dict(),
        "method": method.state_dict(),
        "phase": phase,
        "order": order.get_state(),
        "random": torch.get_rng_state(),
        "epochs": [asdict(epoch) for epoch in epochs],
    }


def restore(found: dict[str, Any], net: nn.Module, order: torch.Generator) -> list[Epoch]:
    """Put back what `state` saw but for the method; the epochs done."""
    net.load_state_dict(found["weights"])
    order.set_state(found["order"])
    torch.set_rng_state(found["random"])
    return [Epoch(**epoch) for epoch in found["epochs"]]


def in_fresh_process(function: Callable, *args):
    """function(*args) in a process of its own, so that its peak memory is its own.

    Its threads sleep while they wait for one another, unless the user has set OMP_WAIT_POLICY: spinning, the default,
    stalls for seconds once another program wants the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        return pool.submit(function, *args).result()


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that came: nobody waits for what it does."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
