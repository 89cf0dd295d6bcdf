"""Contenders: everything that is timed, under one interface, in one table."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch

import fastlif

from . import libraries, naive, ours
from .case import SURROGATES, Case, Data
from .check import COMPACT, EXACT
from .choose import choose


class Layer:
    """A contender that is a function x -> spikes under autograd."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], data: Data):
        self.function, self.x, self.gs = function, data.x, data.gs
        self.leaf = data.x.detach().requires_grad_()

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(spikes, dL/dx)."""
        spikes = self.function(self.leaf)
        if self.gs.dtype != spikes.dtype:
            self.gs = self.gs.to(spikes.dtype)
        return spikes.detach(), torch.autograd.grad(spikes, self.leaf, self.gs)[0]

    def forward(self) -> torch.Tensor:
        """spikes, without grad mode."""
        with torch.no_grad():
            return self.function(self.x)

    @property
    def kept_bytes(self) -> int:
        """What autograd keeps of one call whose input is another layer's output."""
        return fastlif.saved_bytes(lambda x: self.function(x * 1), self.leaf).total


@dataclass(frozen=True)
class Contender:
    """One row of the benchmark.

    `form(case)` is its neuron as options of fastlif.lif: what its results are checked against. `build(case, data)`
    makes a `Layer` or an `ours.Kernel`. `missing(case)` says why it cannot run, or None. `moves(case)` are the bytes
    per neuron-step that its forward + backward must move, None where nobody has counted them.
    """

    name: str
    group: str
    form: Callable[[Case], dict]
    build: Callable[[Case, Data], Any]
    missing: Callable[[Case], str | None] = lambda case: None
    moves: Callable[[Case], float | None] = lambda case: None
    note: Callable[[Case], str] = lambda case: ""
    devices: tuple[str, ...] = ("cpu", "cuda")
    tolerance: float = EXACT


def _layer(make: Callable[[Case], Callable]) -> Callable:
    return lambda case, data: Layer(make(case), data)


def _plain() -> list[Contender]:
    rows = []
    for surrogate in SURROGATES:
        form = partial(Case.form, surrogate=surrogate)
        for group, make in (("naive", naive.loop), ("compile", naive.compiled)):
            build = _layer(lambda case, make=make, form=form: make(form(case)))
            rows.append(Contender(f"{group} {surrogate}", group, form, build))
    return rows


def _spikingjelly() -> list[Contender]:
    rows = []
    for backend, surrogate in product(libraries.SPIKINGJELLY_BACKENDS, SURROGATES):
        row = Contender(
            f"spikingjelly {backend} {surrogate}",
            "spikingjelly",
            partial(Case.form, surrogate=surrogate),
            _layer(partial(libraries.SpikingJelly, surrogate=surrogate, backend=backend)),
            partial(libraries.spikingjelly_missing, surrogate=surrogate, backend=backend),
        )
        if backend != "torch":
            row = replace(row, devices=("cuda",), moves=lambda case: 4 * case.torch_dtype.itemsize + 8)
        if backend == "half":
            note = "keeps h in x's dtype: neuron_storage"
            row = replace(row, moves=lambda case: 6 * case.torch_dtype.itemsize, tolerance=COMPACT)
            row = replace(row, note=lambda case, note=note: note)
        rows.append(row)
    return rows


def _snntorch_layer(case: Case) -> Callable:
    return libraries.SnnTorch(case.reset).to(case.device)


def _snntorch_note(case: Case) -> str:
    return ("delayed and detached" if case.reset == "soft" else "detached") + " reset, fires on >"


def _others() -> list[Contender]:
    form, note = libraries.snntorch_form, _snntorch_note
    other_naive = _layer(lambda case: naive.loop(form(case)))
    other_fastlif = _layer(lambda case: ours.public(form(case)))
    missing = partial(partial, libraries.missing)
    return [
        Contender("snntorch", "snntorch", form, _layer(_snntorch_layer), missing("snntorch"), note=note),
        Contender("naive, snntorch's neuron", "other form", form, other_naive, note=note),
        Contender("fastlif, snntorch's neuron", "other form", form, other_fastlif, note=note),
        Contender(
            "norse",
            "norse",
            libraries.norse_form,
            _layer(libraries.norse),
            missing("norse"),
            note=lambda case: "gain 1/2, threshold 1/2, fires on >",
        ),
    ]


def _ours() -> list[Contender]:
    """For each format: the public API, on a GPU also with each backend forced, and the bare kernels."""
    rows = []
    for name, (surrogate, state) in ours.FORMATS.items():
        form = partial(Case.form, surrogate=surrogate)

        def moves(case: Case, form=form, state=state) -> float:
            return ours.moved_bytes(ours.kept(form(case), state), case)

        def note(case: Case, form=form, state=state) -> str:
            return f"keeps {ours.kept(form(case), state).name}, backend {ours.in_use(case)}"

        def public(case: Case, form=form, state=state, backend=None) -> Callable:
            return ours.public(form(case), state, backend)

        def kernel(case: Case, data: Data, form=form, state=state, backend=None) -> ours.Kernel:
            return ours.Kernel(form(case), state, backend, data)

        row = Contender(f"fastlif {name}", "fastlif", form, _layer(public), moves=moves, note=note)
        row = replace(row, tolerance=COMPACT if state == "compact" else EXACT)
        rows.append(row)
        for backend in ("cpu", "cuda", "triton"):
            device = ("cpu",) if backend == "cpu" else ("cuda",)
            forced = replace(row, missing=partial(ours.missing, backend), devices=device, note=lambda case: "")
            if device == ("cuda",):
                build = _layer(partial(public, backend=backend))
                rows.append(replace(forced, name=f"fastlif {backend} {name}", build=build))
            build = partial(kernel, backend=backend)
            rows.append(replace(forced, name=f"kernel {backend} {name}", group="kernel", build=build))
    return rows


TABLE: list[Contender] = [*_plain(), *_spikingjelly(), *_others(), *_ours()]


def select(device: str, wanted: list[str] | None = None, without: list[str] | None = None) -> list[Contender]:
    """The contenders for a device; `wanted` and `without` are groups or names (a name's beginning is enough)."""
    return choose([c for c in TABLE if device in c.devices], wanted, without, f" on {device}")
