"""One training run from a Config, with fastlif's layers or their naive twin, in this process or in a fresh one."""

import functools
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from .. import data, models
from ..nn import LIF, PerStep
from . import measure, naive
from .bptt import Bptt, mean_cross_entropy
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
    return data.Batches(dataset.train, config.batch_size, config.steps, device, generator, dataset.augment)


def bptt(config: Config, net: nn.Module, updates: int) -> Bptt:
    """The method: AdamW, its learning rate rising and falling once over all updates."""
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=updates)
    loss = functools.partial(mean_cross_entropy, label_smoothing=config.label_smoothing)
    return Bptt(net, optimizer, schedule, loss)


def train(config: Config, layers: str = "fastlif", weights: Path | None = None) -> Run:
    """Train, with a progress bar on stderr; save the weights, if a path is given; test once, at the end."""
    from tqdm import tqdm

    device = config.torch_device()
    dataset = data.load(config.data)
    net = build(config, layers, dataset)
    batches = train_batches(config, dataset)
    validation, test = (
        data.Batches(part, config.batch_size, config.steps, device) for part in (dataset.validation, dataset.test)
    )
    updates = config.epochs * len(batches)
    method = bptt(config, net, updates)

    before, began, epochs = measure.memory_now(device), time.perf_counter(), []
    with tqdm(total=updates, desc=f"{layers:8}", unit="step", dynamic_ncols=True) as bar:
        for epoch in fit(method, batches, config.epochs, validation, on_step=lambda outcome: bar.update()):
            epochs.append(epoch)
            bar.set_postfix_str(f"loss {epoch.loss:.3f}, validation {epoch.validation_accuracy:.1%}")
    seconds = time.perf_counter() - began
    accuracy = evaluate(method, test)
    if weights is not None:
        save(net, config, weights)
    return Run(layers, epochs, accuracy, seconds, measure.peak_memory(device), before)


def in_fresh_process(function: Callable, *args):
    """function(*args) in a process of its own, so that its peak memory is its own.

    Its threads sleep while they wait for one another, unless the user has set OMP_WAIT_POLICY: spinning, the default,
    stalls for seconds once another program wants the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def save(net: nn.Module, config: Config, path: Path) -> None:
    """Write the weights and the options that rebuild the network; a file there is replaced whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save({"config": asdict(config), "weights": net.state_dict()}, partial)
    partial.replace(path)
