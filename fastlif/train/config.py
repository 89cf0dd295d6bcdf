"""Config: every option of a training run, checked before anything is done. The command line is made from it."""

import argparse
import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ..data import DATA
from ..models import MODELS, Thresholds
from ..neuron import Neuron
from ..surrogate import BY_NAME, nearest
from .local_bptt import both

METHODS = ("bptt", "tet", "tit", "local-bptt", "bloctrain")
LOSSES = ("cross-entropy", "mse")
CLASSIFIERS = ("trainable", "random")
CACHES = ("auto", "on", "off")
UPDATES = ("window", "sample")
OPTIMIZERS = ("adamw", "adam", "sgd")
DECAYS = ("onecycle", "cosine", "halving", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
NEURON = ("decay", "threshold", "reset", "reset_amount", "reset_delay", "detach_reset", "fire_on_equal", "state")
COUNTS = {"steps": 1, "epochs": 1, "batch_size": 1, "workers": 0, "sdt_epochs": 0}  # and the least there may be
DATA_OPTIONS = ("root", "encode", "period", "size", "held_out")


@dataclass(frozen=True)
class Phase:
    """Epochs at one T, with an optimizer of their own; time inheritance has several."""

    steps: int
    epochs: int
    optimizer: str
    lr: float


def option(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field of `Config`: its group and text on the command line; `more` is for argparse."""
    return field(default=default, metadata={"group": group, "help": help, **more})


TASK, NETWORK, UNIT, COURSE, LOCAL, BLOCS, HOW = (
    "what to train",
    "the network",
    "the neuron (see fastlif.lif)",
    "how to train",
    "local truncated BPTT (method local-bptt)",
    "BlocTrain (method bloctrain, a model bloc-...)",
    "on what machine",
)


@dataclass(frozen=True)
class Config:
    """The options of `fastlif train`, under the same names."""

    method: str = option(
        "bptt",
        TASK,
        "bptt: loss of the mean output; tet: of every moment's; tit: tet with time inheritance; local-bptt: in windows "
        "and blocks; bloctrain: block after block",
    )
    model: str = option("convnet", TASK, f"the network: {', '.join(MODELS)}")
    data: str = option("digits", TASK, f"the data set: {', '.join(DATA)}")
    root: str | None = option(None, TASK, "folder with the data set's files; $FASTLIF_DATA or ./data if not given")
    encode: str | None = option(
        None, TASK, "direct or poisson, of events counts or binary; the data's own if not given"
    )
    period: int | None = option(None, TASK, "length of a binary frame, in the events' own unit of time", type=int)
    size: int | None = option(None, TASK, "height and width of frames of recorded events", type=int)
    held_out: float | None = option(
        None, TASK, "share of the training samples that validates; the data's own if not given", type=float
    )
    steps: int = option(6, TASK, "time steps for each sample", metavar="T")

    batch_norm_lif: bool = option(False, NETWORK, "fastlif's layers: batch norm and neurons as one")
    alpha: float | None = option(
        None, NETWORK, "threshold-dependent batch norm (Zheng et al. 2021: 1); plain if not given", type=float
    )
    recompute: bool = option(
        False, NETWORK, "fastlif's layers: run convolutions again in backward, keep spikes as bits"
    )

    width: float | None = option(
        None, NETWORK, "factor of hidden channels and neurons, of networks that have one", type=float
    )
    residuals: bool | None = option(
        None, NETWORK, "of bloc-...: residual connections (theirs if not given)", action=argparse.BooleanOptionalAction
    )
    dropout: float | None = option(None, NETWORK, "rate, of networks that have one; their own if not given", type=float)

    decay: float = option(0.5, UNIT, "what a step leaves of the membrane, 0 to 1")
    threshold: float = option(1.0, UNIT, "membrane at which a neuron fires")
    reset: str = option("soft", UNIT, "soft, hard or none")
    reset_amount: float | None = option(
        None, UNIT, "what a spike takes off the membrane (soft); the threshold if not given", type=float
    )
    reset_delay: bool = option(False, UNIT, "take it off in the next step (soft)")
    detach_reset: bool = option(True, UNIT, "no gradient through the reset")
    fire_on_equal: bool = option(True, UNIT, "fire at the threshold, not only above it")
    surrogate: str = option(
        "rectangle",
        UNIT,
        "triangle, rectangle, pass_through, sigmoid, atan, fast_sigmoid; triangle:2 is of width 2, triangle:1:0.3 also "
        "of height 0.3",
    )
    state: str = option("exact", UNIT, "what fastlif keeps for backward: exact or compact")
    sigmoid: float | None = option(
        None,
        UNIT,
        "ablation, in plain PyTorch: spikes are sigmoid(k * (membrane - threshold))",
        type=float,
        metavar="K",
    )

    epochs: int = option(
        80, COURSE, "passes over the training part; of tit those at the last T, of bloctrain each block's"
    )
    inherit: str = option("", COURSE, "phases before, as T:epochs,T:epochs; of tit 2:(6 times --epochs) if not given")
    batch_size: int = option(64, COURSE, "samples a batch, over all processes", metavar="B")
    optimizer: str = option("adamw", COURSE, "adamw, adam or sgd (momentum 0.9, which onecycle varies)")
    lr: float = option(3e-3, COURSE, "greatest learning rate")
    lr_decay: str = option("onecycle", COURSE, "onecycle, cosine (to 0), halving (every 20 epochs) or constant")
    finetune_lr: float = option(1e-4, COURSE, "greatest learning rate of all phases but the first")
    finetune_optimizer: str | None = option(
        None, COURSE, "optimizer of all phases but the first; the same if not given"
    )
    weight_decay: float = option(1e-2, COURSE, "weight decay")
    loss: str = option("cross-entropy", COURSE, "of bptt, local-bptt: cross-entropy of mean outputs, or their mse")
    label_smoothing: float = option(0.1, COURSE, "of the cross-entropy")
    lam: float = option(0.05, COURSE, "tet: weight of the squared distance of outputs from the threshold")
    sdt_epochs: int = option(0, COURSE, "tet: begin with so many epochs of bptt's loss")
    seed: int = option(0, COURSE, "of the weights, the order of samples and their variation")

    window: str = option("", LOCAL, "steps of a window, k, or k1,k2: windows of k1 steps, the last k2 with gradient")
    block: int | None = option(None, LOCAL, "layers with weights in a block; all if not given", type=int)
    classifiers: str = option("trainable", LOCAL, "of blocks: trainable, or random")
    update: str = option("window", LOCAL, "when weights are updated: after each window, or after the sample")

    hardness: float | None = option(
        None, BLOCS, "validation accuracy below which a class is hard; mean and deviations if not given", type=float
    )
    hardness_std: float = option(-1.0, BLOCS, "hard is what is this many standard deviations above the mean accuracy")
    target: float | None = option(None, BLOCS, "validation accuracy with which no more blocks are added", type=float)
    conf: float = option(0.9999, BLOCS, "confidence with which a sample leaves")
    high: float = option(0.5, BLOCS, "probability of a hard class below which a sample leaves")
    low: float = option(0.05, BLOCS, "probability of a hard class below which an answer that is one is refined")
    base: bool = option(False, BLOCS, "BlocTrain-base: all classes in all blocks, no detectors")
    place: bool = option(False, BLOCS, "in the end, leave out exits that cost more than they save")
    cache: str = option(
        "auto", BLOCS, "spikes of trained blocks kept as bits: on, off, or auto, where input is always the same"
    )
    cache_limit: float = option(4.0, BLOCS, "of that, gigabytes at most")

    precision: str = option("float32", HOW, "float32, or autocast to bfloat16 or float16")
    device: str = option("auto", HOW, "cpu, cuda, cuda:1, ...; auto is a GPU if there is one")
    workers: int = option(0, HOW, "processes that read samples from files")

    def __post_init__(self):
        self._check_names()
        self._check_numbers()
        Neuron(**self.neuron)
        self.thresholds  # noqa: B018 raises where they cannot be
        if self.sigmoid is not None and self.batch_norm_lif:
            raise ValueError("sigmoid is plain PyTorch: it cannot go with batch_norm_lif")
        if self.batch_norm_lif and self.state != "exact":
            raise ValueError(f"batch_norm_lif keeps its input alone, state must be 'exact', got {self.state!r}")
        if self.sdt_epochs and self.method not in ("tet", "tit"):
            raise ValueError("sdt_epochs is for method='tet', whose loss takes over: others have one loss all along")
        if self.method == "bloctrain" and self.inherit:
            raise ValueError(
                f"inherit is for methods that train all layers at a time, got {self.inherit!r} for bloctrain"
            )
        if not isinstance(self.window, str):
            raise TypeError(f"window must be a text, 'k' or 'k1,k2', got {self.window!r}")
        if self.method == "local-bptt":
            both(self.windows)
        if self.sdt_epochs > (whole := sum(phase.epochs for phase in self.phases)):
            raise ValueError(f"sdt_epochs must be at most {whole}, all epochs there are, got {self.sdt_epochs}")
        self.torch_device()

    def _check_names(self) -> None:
        for name, known in (
            ("method", METHODS),
            ("model", MODELS),
            ("data", DATA),
            ("optimizer", OPTIMIZERS),
            ("finetune_optimizer", (None, *OPTIMIZERS)),
            ("lr_decay", DECAYS),
            ("loss", LOSSES),
            ("classifiers", CLASSIFIERS),
            ("update", UPDATES),
            ("cache", CACHES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                close = nearest(getattr(self, name), [one for one in known if one is not None])
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; {close}")

    def _check_numbers(self) -> None:
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        for name in ("lr", "finetune_lr", "sigmoid", "cache_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive finite number, got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number, at least 0, got {self.weight_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        for name in ("hardness", "target"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is a share, in [0, 1], got {value}")
        if not math.isfinite(self.hardness_std):
            raise ValueError(f"hardness_std must be a finite number, got {self.hardness_std}")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must be in [0, 1], got {self.lam}")

    @property
    def phases(self) -> list[Phase]:
        """The course of training: one phase, or those of `inherit` and then steps and epochs."""
        earlier = self.inherit or (f"2:{6 * self.epochs}" if self.method == "tit" else "")
        plan = [] if not earlier else [_phase(text) for text in earlier.split(",")]
        found = []
        for steps, epochs in [*plan, (self.steps, self.epochs)]:
            optimizer = self.optimizer if not found else self.finetune_optimizer or self.optimizer
            found.append(Phase(steps, epochs, optimizer, self.finetune_lr if found else self.lr))
        return found

    @property
    def neuron(self) -> dict[str, object]:
        """The options of a layer of neurons."""
        name, *numbers = self.surrogate.split(":")
        if name not in BY_NAME:
            raise ValueError(f"unknown surrogate {name!r}; {nearest(name, BY_NAME)}")
        if len(numbers) > len(fields(BY_NAME[name])):
            raise ValueError(f"surrogate {name!r} has {len(fields(BY_NAME[name]))} numbers, got {self.surrogate!r}")
        surrogate = {"surrogate": BY_NAME[name](*map(float, numbers)) if numbers else name}
        return {name: getattr(self, name) for name in NEURON} | surrogate

    @property
    def thresholds(self) -> Thresholds:
        """When samples leave a network of blocks."""
        return Thresholds(self.conf, self.high, self.low)

    @property
    def windows(self) -> tuple[int, int]:
        """(k1, k2) of local truncated BPTT, the whole T if no window is given."""
        if not self.window:
            return self.steps, self.steps
        try:
            k1, *k2 = map(int, self.window.split(","))
        except ValueError:
            k2 = [0, 0]
        if len(k2) > 1:
            raise ValueError(f"window must be k or k1,k2, got {self.window!r}")
        return k1, *(k2 or [k1])

    @property
    def data_options(self) -> dict[str, object]:
        """Those options of `fastlif.data.load` that are given."""
        return {name: getattr(self, name) for name in DATA_OPTIONS if getattr(self, name) is not None}

    def torch_device(self) -> torch.device:
        """The device to train on; "auto" is a GPU if there is one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from None
        return device


def _phase(text: str) -> tuple[int, int]:
    """(T, epochs) of "T:epochs"."""
    steps, _, epochs = text.partition(":")
    if not (steps.strip().isdecimal() and epochs.strip().isdecimal() and int(steps) and int(epochs)):
        raise ValueError(f"inherit must be T:epochs,T:epochs, each at least 1, got {text!r}")
    return int(steps), int(epochs)


DEFAULTS = {own.name: own.default for own in fields(Config)}
