"""One training step of a network, checked and measured: what the benchmarks `network` and `onm` share."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from tqdm import tqdm

import fastlif
from fastlif.losses import sdt_loss
from fastlif.train import naive

from . import machine, peak
from .check import EXACT, FLIPS, distance
from .report import write_report
from .results import failure, save
from .timing import alternate

BYTES_OF_PLAIN_CODE = 64  # per neuron-step, at its peak
LOSS = 0.05  # allowed error of the whole network's loss: chance flips at first, wiring beyond


@dataclass(frozen=True)
class Parts:
    """What a network is made of: makers of its neurons, of what folds time away, and of batch norm + neurons in one."""

    neurons: Callable[[], nn.Module]
    per_step: Callable[..., nn.Module] = naive.PerStep
    norm_neurons: Callable[[int], nn.Module] | None = None


@dataclass(frozen=True)
class Workload:
    """A network, its input and its neurons. `amp` is the dtype of autocast."""

    steps: int
    batch: int
    device: str = "cpu"
    amp: str | None = None

    benchmark: ClassVar[str]
    reset: ClassVar[str]

    def form(self) -> dict:
        """The neuron, as options of fastlif.LIF: decay 0.5 and threshold 1, where all formulas round alike."""
        return {"decay": 0.5, "threshold": 1.0, "reset": self.reset, "surrogate": fastlif.Triangle()}

    def net(self, parts: Parts) -> nn.Module:
        """The network, its weights always the same."""
        raise NotImplementedError

    def head(self) -> "Workload":
        """The same up to spikes: the network's first layers, which return them."""
        raise NotImplementedError

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(x [T, B, ...], labels [B]), always the same."""
        raise NotImplementedError

    @property
    def neuron_steps(self) -> int:
        raise NotImplementedError

    @property
    def title(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Contender:
    """One row. `parts(form)` are its layers, `own` what its neuron has of its own, `finish` what is done to the net.

    `missing(workload)` says why it cannot run, or None; `prepare(net)` comes before every step; `gradient` is the
    allowed gradient error where that of the plain network is smaller.
    """

    name: str
    group: str
    parts: Callable[[dict], Parts]
    finish: Callable[[nn.Module, torch.Tensor], nn.Module] = lambda net, x: net
    prepare: Callable[[nn.Module], object] = lambda net: None
    missing: Callable[[Workload], str | None] = lambda work: None
    own: dict = field(default_factory=dict)
    gradient: float = EXACT
    note: str = ""

    def form(self, work: Workload) -> dict:
        return work.form() | self.own


class Run:
    """A contender's network on a workload's data, in float64 and without autocast if `double`."""

    def __init__(self, contender: Contender, work: Workload, double: bool = False):
        self.x, self.labels = work.inputs()
        net = work.net(contender.parts(contender.form(work)))
        if double:
            net, self.x = net.double(), self.x.double()
        self.prepare, self.double, self.work = contender.prepare, double, work
        with self.autocast():
            self.net = contender.finish(net, self.x)

    def autocast(self) -> torch.autocast:
        amp = None if self.double else self.work.amp
        return torch.autocast(self.work.device, getattr(torch, amp or "bfloat16"), enabled=amp is not None)

    def forward(self) -> torch.Tensor:
        """The network's output, autograd recording."""
        self.prepare(self.net)
        with self.autocast():
            return self.net(self.x)

    def step(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(loss, its gradient for every parameter)."""
        loss = sdt_loss(self.forward(), self.labels)
        loss.backward()
        gradients = [p.grad for p in self.net.parameters()]
        self.net.zero_grad()
        return loss.detach(), gradients

    def spikes(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(the output, a gradient for every parameter): of a workload's head, weighted by normal numbers."""
        output = self.forward()
        generator = torch.Generator(output.device).manual_seed(1)
        weights = torch.randn(output.shape, generator=generator, device=output.device).to(output.dtype)
        return output.detach(), list(torch.autograd.grad(output, list(self.net.parameters()), weights))

    def own_bytes(self) -> int:
        """Parameters and buffers."""
        return sum(tensor.nbytes for tensor in (*self.net.parameters(), *self.net.buffers()))

    def kept_bytes(self) -> int:
        """What autograd keeps of the forward pass; parameters, buffers and the input do not count."""
        own = [self.x, *self.net.parameters(), *self.net.buffers()]
        return fastlif.saved_bytes(lambda *_: self.forward(), *own).total

    def alive_bytes(self) -> int:
        """What the allocator still holds after the forward pass, the output excepted: the cross-check of kept_bytes.

        It sees what hooks do not, such as the inputs that torch.utils.checkpoint holds on to inside other objects, and
        not what hooks count in vain: what was kept by a branch that nothing came of. A state that outlives the forward
        pass is dropped first.
        """
        self.prepare(self.net)
        if self.work.device == "cuda":
            before = torch.cuda.memory_allocated()
            output = self.forward()
            self.prepare(self.net)
            return torch.cuda.memory_allocated() - before - output.nbytes
        profile = partial(torch.profiler.profile, activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        with profile() as recorded:
            output = self.forward()
            self.prepare(self.net)
        size = output.nbytes
        with profile():  # it goes by addresses: blocks freed unseen would be mistaken for later ones
            del output
        return sum(event.self_cpu_memory_usage for event in recorded.key_averages()) - size


class Check:
    """How far contenders are from the plain network, and whether that is near enough.

    One flipped spike changes all that follows it: over a deep network flips by rounding grow until float32's gradient
    has little in common with float64's. So what is judged are the first layers' spikes and gradients, against the plain
    network in float64. Allowed is twice the error of the plain network in the precision that is benchmarked, and in any
    case FLIPS of the spikes, and `Contender.gradient` of the gradient's norm. Of the whole network the loss is judged,
    coarsely; the distances of loss and gradient from the plain network's are reported.
    """

    def __init__(self, work: Workload, plain: Contender):
        self.work, self.plain = work, plain
        self.expected: dict[str, tuple] = {}

    def __call__(self, contender: Contender, run: Run) -> dict:
        """What to enter into the contender's row."""
        right, usual, whole = self._expected(contender)
        errors = self._errors(Run(contender, self.work.head()).spikes(), right)
        loss, gradients = run.step()
        errors["loss_error"] = abs(loss.item() / whole[0].item() - 1)
        limits = {"flips": max(FLIPS, 2 * usual["flips"]), "loss_error": LOSS}
        limits["gradient_error"] = max(contender.gradient, 2 * usual["gradient_error"])
        wrong = [
            f"{name.replace('_', ' ')} {errors[name]:.2g} (allowed {limit:.2g})"
            for name, limit in limits.items()
            if not errors[name] <= limit
        ]
        refusal = {"status": "refused", "reason": f"computes something else: {'; '.join(wrong)}"} if wrong else {}
        return errors | {"gradient_from_naive": distance(gradients, whole[1])} | refusal

    def _expected(self, contender: Contender) -> tuple:
        """(the head's results in float64, the plain head's errors, the whole plain network's results)."""
        key = repr(contender.form(self.work))
        if key not in self.expected:
            plain, head = Contender(self.plain.name, "", self.plain.parts, own=contender.own), self.work.head()
            right = Run(plain, head, double=True).spikes()
            self.expected[key] = right, self._errors(Run(plain, head).spikes(), right), Run(plain, self.work).step()
        return self.expected[key]

    @staticmethod
    def _errors(results: tuple, right: tuple) -> dict:
        flips = ((results[0] != 0) != (right[0] != 0)).double().mean().item()
        return {"flips": flips, "gradient_error": distance(results[1], right[1])}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every training benchmark."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", "-T", type=int)
    parser.add_argument(
        "--amp", nargs="+", choices=("none", "bfloat16", "float16"), default=["none"], help="dtypes of autocast"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, 2 repetitions: does everything run?")
    parser.add_argument("--repeats", type=int, help="repetitions after the warm-up; default 10, 0 for no times")
    parser.add_argument("--contenders", nargs="+", help="groups or names; default all")
    parser.add_argument("--without", nargs="+", help="groups or names to leave out")
    parser.add_argument("--no-peak", action="store_true", help="no peak memory: saves a process for each contender")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/<benchmark>-<device>.json")


def device_of(args: argparse.Namespace) -> str:
    return args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def amps(args: argparse.Namespace) -> list[str | None]:
    return [None if amp == "none" else amp for amp in args.amp]


def keep(args: argparse.Namespace, command: list[str], benchmark: str, rows: list[dict]) -> Path:
    """Save the JSON: its path."""
    out = args.out or Path(__file__).parent / "results" / f"{benchmark}-{device_of(args)}.json"
    save(out, machine.describe(command) | {"benchmark": benchmark, "rows": rows})
    return out


def finish(args: argparse.Namespace, command: list[str], benchmark: str, rows: list[dict]) -> int:
    """Keep the rows, make table and plot from them, print the table. Returns 1 if a row of fastlif failed, else 0."""
    print(write_report(keep(args, command, benchmark, rows)))
    return int(any(r["group"] == "fastlif" and r["status"] in ("failed", "refused") for r in rows))


def run_all(work: Workload, contenders: list[Contender], plain: Contender, repeats: int, with_peak: bool) -> list[dict]:
    """A row for each contender, measured or with the reason why not. `plain` is what all are checked against."""
    names = {"case": work.__dict__, "neuron_steps": work.neuron_steps, "title": work.title}
    rows = {c.name: names | {"contender": c.name, "group": c.group, "status": "ok", "note": c.note} for c in contenders}
    if work.neuron_steps * BYTES_OF_PLAIN_CODE > machine.available_bytes(work.device):
        why = f"needs about {work.neuron_steps * BYTES_OF_PLAIN_CODE / 2**30:.0f} GiB of memory"
        return [row | {"status": "not run", "reason": why} for row in rows.values()]
    torch._dynamo.reset()
    check, runs = Check(work, plain), {}
    for contender in tqdm(contenders, desc="checks", leave=False, file=sys.stderr):
        row = rows[contender.name]
        if why := contender.missing(work):
            row |= {"status": "missing", "reason": why}
            continue
        try:
            run = Run(contender, work)
            row |= check(contender, run) | {"kept_bytes": run.kept_bytes(), "alive_bytes": run.alive_bytes()}
        except Exception as error:  # a contender's fault, whatever it is, is a result to report
            row |= failure(error)
            continue
        if row["status"] == "ok":
            runs[contender.name] = run
            row["peak_bytes"] = peak.of_device(run.step) + run.own_bytes() if work.device == "cuda" else None
    if repeats:
        rounds = tqdm(range(repeats), desc="steps", leave=False, file=sys.stderr)
        times = alternate({name: run.step for name, run in runs.items()}, work.device, rounds, warm_up=1)
        for name, summary in times.items():
            rows[name]["both"] = summary
    if work.device == "cpu" and with_peak:
        for name in tqdm(runs, desc="peak memory", leave=False, file=sys.stderr):
            rows[name]["peak_bytes"] = peak.of_fresh_process(work.benchmark, work.__dict__, name)
    return list(rows.values())


def starter(work: Workload, contender: Contender) -> Callable[[], Callable[[], Any]]:
    """What `bench peak` runs: () -> the step of a freshly built network."""
    return lambda: Run(contender, work).step
