"""One training run from a Config, with fastlif's layers or their naive twin, in this process or in a fresh one."""

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data, losses, models
from ..nn import LIF, PerStep
from . import checkpoint, measure, naive
from .bptt import Bptt
from .config import Config
from .loop import Epoch, evaluate, fit

LAYERS = {"naive": (naive.LIF, naive.PerStep), "fastlif": (LIF, PerStep)}


@dataclass
class Run:
    """What came of a run. Memory in bytes: the peak, and what the process held when training began."""

    layers: str
    epochs: list[Epoch]
    test_accuracy: float
    seconds: float
    peak_memory: int
    memory_before: int


def build(config: Config, layers: str, dataset: data.Data) -> nn.Module:
    """The network of `config`, its weights drawn from the seed: the same for either kind of layers."""
    neurons, per_step = LAYERS[layers]
    options = {"neurons": functools.partial(neurons, **config.neuron), "per_step": per_step}
    torch.manual_seed(config.seed)
    return models.build(config.model, dataset.shape, dataset.classes, **options).to(config.torch_device())


def train_batches(config: Config, dataset: data.Data) -> data.Batches:
    """The training batches, shuffled and varied by the seed."""
    generator = torch.Generator().manual_seed(config.seed)
    device = config.torch_device()
    return data.Batches.of(dataset, "train", config.batch_size, config.steps, device, generator)


def bptt(config: Config, net: nn.Module, updates: int) -> Bptt:
    """The method: AdamW, its learning rate rising and falling once over all updates, and the method's loss."""
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=updates)
    loss = functools.partial(losses.sdt_loss, label_smoothing=config.label_smoothing)
    if config.method == "tet":
        options = {"lam": config.lam, "phi": config.threshold, "label_smoothing": config.label_smoothing}
        loss = functools.partial(losses.tet_loss, **options)
    return Bptt(net, optimizer, schedule, loss)


def train(config: Config, layers: str = "fastlif", out: Path | None = None, resume: bool = False) -> Run:
    """Train, with a progress bar on stderr; test once, at the end.

    Args:
        config: all options of the training.
        layers: "fastlif" or "naive".
        out: the folder for a checkpoint after every epoch, {layers}.checkpoint.pt, all epochs so far as JSON Lines,
            {layers}.jsonl, and at the end the weights, {layers}.pt; nothing is written unless given.
        resume: continue from the checkpoint there, if there is one; on a CPU to the same weights bit for bit.
    """
    from tqdm import tqdm

    device = config.torch_device()
    dataset = data.load(config.data)
    net = build(config, layers, dataset)
    batches = train_batches(config, dataset)
    validation, test = (
        data.Batches.of(dataset, part, config.batch_size, config.steps, device) for part in ("validation", "test")
    )
    updates = config.epochs * len(batches)
    method, epochs, earlier = bptt(config, net, updates), [], 0.0
    kept = None if out is None else out / f"{layers}.checkpoint.pt"
    if resume and kept is not None and kept.exists():
        epochs, earlier = restore(checkpoint.load(kept, config, layers), method, batches)

    before, began = measure.memory_now(device), time.perf_counter() - earlier
    with tqdm(total=updates, desc=f"{layers:8}", unit="step", dynamic_ncols=True) as bar:
        bar.update(len(epochs) * len(batches))
        first = len(epochs) + 1
        for epoch in fit(method, batches, config.epochs, validation, lambda outcome: bar.update(), first):
            epochs.append(epoch)
            bar.set_postfix_str(f"loss {epoch.loss:.3f}, validation {epoch.validation_accuracy:.1%}")
            if kept is not None:
                lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs)
                (out / f"{layers}.jsonl").write_text(lines)
                checkpoint.save(kept, config, layers, **state(method, batches, epochs, time.perf_counter() - began))
    seconds = time.perf_counter() - began
    accuracy = evaluate(method, test)
    if out is not None:
        checkpoint.write(out / f"{layers}.pt", {"config": asdict(config), "weights": net.state_dict()})
    return Run(layers, epochs, accuracy, seconds, measure.peak_memory(device), before)


def state(method: Bptt, batches: data.Batches, epochs: list[Epoch], seconds: float) -> dict[str, Any]:
    """All that the run needs after these epochs."""
    return {
        "weights": method.net.state_dict(),
        "method": method.state_dict(),
        "order": batches.generator.get_state(),
        "random": torch.get_rng_state(),
        "epochs": [asdict(epoch) for epoch in epochs],
        "seconds": seconds,
    }


def restore(found: dict[str, Any], method: Bptt, batches: data.Batches) -> tuple[list[Epoch], float]:
    """Put everything back to where `state` saw it; (the epochs done, the seconds they took)."""
    method.net.load_state_dict(found["weights"])
    method.load_state_dict(found["method"])
    batches.generator.set_state(found["order"])
    torch.set_rng_state(found["random"])
    return [Epoch(**epoch) for epoch in found["epochs"]], found["seconds"]


def in_fresh_process(function: Callable, *args):
    """function(*args) in a process of its own, so that its peak memory is its own.

    Its threads sleep while they wait for one another, unless the user has set OMP_WAIT_POLICY: spinning, the default,
    stalls for seconds once another program wants the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
