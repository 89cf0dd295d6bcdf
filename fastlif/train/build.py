"""From a Config to what trains: the data set, the network, batches, and the method of each phase."""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from .. import data, losses, models
from ..memory.compact import compact
from ..nn import LIF, BatchNormLIF, PerStep
from . import distributed, naive
from .bloctrain import BlocTrain
from .bptt import Bptt
from .config import Config, Phase
from .local_blocks import Classifier, randomize
from .local_bptt import LocalBPTT
from .method import Method

LAYERS = {"naive": (naive.LIF, naive.PerStep), "fastlif": (LIF, PerStep)}


def dataset(config: Config) -> data.Data:
    """The data set of `config`."""
    return data.load(config.data, **config.data_options)


def network(config: Config, layers: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network of `config`, its weights drawn from the seed: the same for either kind of layers.

    Args:
        layers: "fastlif" or "naive".
        shape: a sample's, (C, H, W).
        classes: number of classes.
    """
    neurons, per_step = LAYERS[layers]
    neurons = functools.partial(neurons, **config.neuron)
    if config.sigmoid is not None:
        neurons = functools.partial(naive.SigmoidLIF, config.sigmoid, **config.neuron)
    options = {"neurons": neurons, "per_step": per_step, "alpha": config.alpha}
    own = {"dropout": config.dropout, "width": config.width, "residuals": config.residuals}
    if config.model.startswith("bloc-"):
        own |= {"exits": config.method == "bloctrain", "detectors": not config.base, "thresholds": config.thresholds}
    options |= {name: value for name, value in own.items() if value is not None}
    if layers == "fastlif" and config.batch_norm_lif:
        own = {name: value for name, value in config.neuron.items() if name != "state"}
        options["norm_neurons"] = functools.partial(BatchNormLIF, process_group=distributed.size() > 1, **own)
    torch.manual_seed(config.seed)
    net = models.build(config.model, shape, classes, **options)
    if config.method == "local-bptt" and config.classifiers == "random":
        randomize(net.readout, config.seed)
    if layers == "fastlif" and config.recompute:
        compact(net, recompute="conv")
    return net.to(config.torch_device())


def train_batches(config: Config, dataset: data.Data, steps: int, generator: torch.Generator) -> data.Batches:
    """This process's share of the training batches at T = steps, shuffled and varied by `generator`."""
    options = {"workers": config.workers, "share": distributed.share()}
    return data.Batches.of(dataset, "train", config.batch_size, steps, config.torch_device(), generator, **options)


def batches(config: Config, dataset: data.Data, part: str, steps: int) -> data.Batches:
    """This process's share of the batches of "validation" or "test", or of "train" in order and as it is."""
    options = {"workers": config.workers, "share": distributed.share()}
    return data.Batches.of(dataset, part, config.batch_size, steps, config.torch_device(), **options)


def loss(config: Config, epoch: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of an epoch, these numbered from 1: that of the method, or standard direct training's before it."""
    if config.loss == "mse" and config.method in ("bptt", "local-bptt"):
        return losses.rate_mse_loss
    if config.method in ("bptt", "local-bptt") or epoch <= config.sdt_epochs:
        return functools.partial(losses.sdt_loss, label_smoothing=config.label_smoothing)
    options = {"lam": config.lam, "phi": config.threshold, "label_smoothing": config.label_smoothing}
    return functools.partial(losses.tet_loss, **options)


def method(config: Config, net: nn.Module, phase: Phase, updates: int) -> Method:
    """The method for one phase: optimizers, the learning rate's course over all its updates, and the loss.

    That of BlocTrain is of the last block that is trained, the first one if none is.
    """
    optimizers = functools.partial(optimizer_of, config, phase)
    schedules = functools.partial(schedule_of, config, phase, updates)
    if config.method == "local-bptt":
        neurons = functools.partial(LIF, **config.neuron)
        seed = config.seed if config.classifiers == "random" else None
        heads = functools.partial(Classifier, neurons=neurons, seed=seed)
        windows = config.windows if config.window else (phase.steps, phase.steps)
        shortest = min(phase.steps for phase in config.phases)
        if config.window and windows[0] > shortest:
            raise ValueError(f"a window must be at most T = {shortest} steps, got {windows[0]}")
        cut = windows, config.block, heads, schedules
        return LocalBPTT(
            net, optimizers, *cut, loss(config, 1), config.update, precision(config), functools.partial(block, config)
        )
    if config.method == "bloctrain":
        return bloc_method(config, net, max(0, getattr(net, "depth", 0) - 1), updates)
    optimizer = optimizers(list(net.parameters()))
    schedule = schedules(optimizer)
    return Bptt(net, optimizer, schedule, loss(config, 1), precision(config), distributed.parallel(net))


def bloc_method(config: Config, net: nn.Module, number: int, updates: int, cached: bool = False) -> BlocTrain:
    """BlocTrain of block `number` of a network over so many updates.

    From the third block on the learning rate is `finetune_lr` (2e-4 and 1e-4 in section 5.1).
    """
    phase = config.phases[-1] if number < 2 else replace(config.phases[-1], lr=config.finetune_lr)
    optimizers = functools.partial(optimizer_of, config, phase)
    schedules = functools.partial(schedule_of, config, phase, updates)
    parallel = functools.partial(block, config)
    return BlocTrain(net, number, optimizers, schedules, cached, precision(config), parallel)


def block(config: Config, unit: nn.Module) -> nn.Module | None:
    """What is called in the place of a local block to learn, None for the block itself."""
    if config.recompute:
        compact(unit, recompute="conv")  # that of the whole network does not see its blocks run
    return distributed.parallel(unit)


def schedule_of(config: Config, phase: Phase, updates: int, optimizer: torch.optim.Optimizer):
    """The course of the learning rate over a phase of so many batches; None for a constant one."""
    match config.lr_decay:
        case "onecycle":
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, phase.lr, total_steps=updates)
        case "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        case "halving":
            return torch.optim.lr_scheduler.StepLR(optimizer, max(1, 20 * updates // phase.epochs), 0.5)
    return None


def precision(config: Config) -> torch.dtype | None:
    """The dtype of autocast, None for none."""
    return None if config.precision == "float32" else getattr(torch, config.precision)


def optimizer_of(config: Config, phase: Phase, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a phase."""
    options = {"lr": phase.lr, "weight_decay": config.weight_decay}
    match phase.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, **options)
        case "adam":
            return torch.optim.Adam(parameters, **options)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=0.9, **options)
