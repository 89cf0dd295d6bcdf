"""The contenders of the network benchmarks: plain PyTorch, the peers at their best, and fastlif mode by mode."""

import inspect
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

import fastlif
from fastlif.train import naive

from . import libraries
from .check import COMPACT
from .training import Contender, Parts, Workload


def compiled(net: nn.Module, x: torch.Tensor) -> nn.Module:
    return torch.compile(net, fullgraph=True, dynamic=False)


# fastlif: what is there, and the parts of each mode


def lacking(*names: str, recompute: bool = False) -> Callable[[Workload], str | None]:
    """A `Contender.missing`: which of these this version of fastlif has not got."""

    def missing(work: Workload) -> str | None:
        absent = [f"fastlif.{name}" for name in names if not hasattr(fastlif, name)]
        if "PerStep" in names and not packs_spikes():
            absent.append("packed spikes in fastlif.PerStep")
        if recompute and not absent and "recompute" not in inspect.signature(fastlif.compact).parameters:
            absent.append("recompute in fastlif.compact")
        return f"no {', no '.join(absent)}" if absent else None

    return missing


@cache
def packs_spikes() -> bool:
    """Whether fastlif.PerStep keeps a layer's input spikes in less than a byte each."""
    net = nn.Sequential(fastlif.LIF(surrogate="pass_through"), fastlif.PerStep(nn.Conv2d(1, 1, 3, padding=1)))
    x = torch.zeros(4, 1, 1, 32, 32, requires_grad=True)
    return fastlif.saved_bytes(net, x).total < x.numel()


def fused(form: dict, per_step=naive.PerStep) -> Parts:
    """Batch norm and neurons as one operator."""
    make = getattr(fastlif, "BatchNormLIF", None)
    return Parts(partial(fastlif.LIF, **form), per_step, make and partial(make, **form))


def compact(net: nn.Module, x: torch.Tensor, **options) -> nn.Module:
    result = fastlif.compact(net, **options)
    return net if result is None else result


def ours(with_norm: bool) -> list[Contender]:
    """fastlif's modes, each keeping less than the one before; those of batch norm only where there is one."""

    def row(name, parts, needs=(), recompute=False, **rest):
        return Contender(f"fastlif {name}", "fastlif", parts, missing=lacking(*needs, recompute=recompute), **rest)

    bits, norm = fastlif.PerStep, "BatchNormLIF"
    rows = [row("LIF", lambda form: Parts(partial(fastlif.LIF, **form)), note="the other layers are PyTorch's")]
    if with_norm:
        rows += [
            row("LIF, bits", lambda form: Parts(partial(fastlif.LIF, **form), bits), ["PerStep"]),
            row("batch norm fused", fused, [norm]),
            row("batch norm fused, bits", partial(fused, per_step=bits), [norm, "PerStep"]),
            row("compact(net)", fused, [norm, "compact"], finish=compact, note="batch norm fused, PyTorch's layers"),
            row(
                "recompute",
                partial(fused, per_step=bits),
                [norm, "PerStep", "compact"],
                recompute=True,
                finish=partial(compact, recompute="conv"),
                note='batch norm fused, bits, compact(net, recompute="conv")',
            ),
        ]
    per_step, needs = (bits, ["PerStep"]) if with_norm else (naive.PerStep, [])
    one_byte = lambda form: Parts(partial(fastlif.LIF, **form, state="compact"), per_step)  # noqa: E731
    rows.append(row("one byte", one_byte, needs, gradient=COMPACT, note='state="compact"' + ", bits" * with_norm))
    best = partial(fused, per_step=per_step) if with_norm else rows[0].parts
    note = f"torch.compile of fastlif {'batch norm fused, bits' if with_norm else 'LIF'}"
    rows.append(row("compiled", best, [norm, "PerStep"] if with_norm else [], finish=compiled, note=note))
    return rows


# the others


def plain(form: dict) -> Parts:
    return Parts(partial(naive.LIF, **form))


def spikingjelly(form: dict, float32: bool = True) -> Parts:
    """SpikingJelly's node and its own container for what knows no time."""
    from spikingjelly.activation_based.layer import SeqToANNContainer

    return Parts(partial(libraries.spikingjelly_node, form["reset"], float32=float32), SeqToANNContainer)


def half(net: nn.Module, x: torch.Tensor) -> nn.Module:
    return libraries.keep_half(net, str(torch.get_autocast_dtype("cuda")).removeprefix("torch."), "cuda")


def half_missing(work: Workload) -> str | None:
    if why := libraries.missing("spikingjelly", work):
        return why
    return None if work.device == "cuda" and work.amp else "for autocast on a GPU alone"


class Block(nn.Sequential):
    """What memopt runs again as a whole: from one layer's spikes to the next layer's, pooling first."""


def memopt(net: nn.Module, x: torch.Tensor, level: int | None = None) -> nn.Module:
    """SpikingJelly's optimize_memory at its strongest: level 4 on a GPU; level 1 on a CPU, where it has no other.

    Level 4 searches by trial: it may take blocks, layers or neurons in parts of the time, where that lowers the peak. A
    block begins with the pooling, so that every block's input is spikes, which memopt packs into bits.
    """
    from spikingjelly.activation_based.memopt import optimize_memory
    from spikingjelly.activation_based.neuron import LIFNode

    stages = net if isinstance(net, nn.Sequential) else net.stages
    blocks, block = [], []
    for module in stages:
        block.append(module)
        if isinstance(module, LIFNode):
            blocks.append(Block(*block))
            block = []
    grouped = nn.Sequential(*blocks, *block)
    if stages is net:
        net = grouped
    else:
        net.stages = grouped
    level = level or (4 if x.is_cuda else 1)
    search = {"split_fn": lambda part: list(part.children()), "can_chunk": lambda part: isinstance(part, LIFNode)}
    return optimize_memory(net, Block, lambda net: net(x), level=level, **(search if level > 1 else {}))


def others(reset: str) -> list[Contender]:
    """Plain PyTorch, the first of the list, and the libraries. snnTorch's reset is detached, a soft one delayed."""
    theirs = partial(Contender, group="spikingjelly", parts=spikingjelly, prepare=libraries.reset_net)
    theirs = partial(theirs, missing=partial(libraries.missing, "spikingjelly"))
    delayed = reset == "soft"
    return [
        Contender("naive", "naive", plain),
        Contender("compile", "compile", plain, compiled, note="torch.compile of naive"),
        theirs("spikingjelly"),
        theirs("spikingjelly memopt", finish=memopt, note="level 4 on a GPU; 1 on a CPU, which has no other"),
        theirs("spikingjelly compiled", finish=compiled, note="torch.compile of spikingjelly"),
        theirs(
            "spikingjelly half",
            parts=partial(spikingjelly, float32=False),
            finish=half,
            missing=half_missing,
            gradient=COMPACT,
            note="keeps h in half precision: neuron_storage",
        ),
        Contender(
            "snntorch",
            "snntorch",
            lambda form: Parts(partial(libraries.SnnTorch, form["reset"])),
            missing=partial(libraries.missing, "snntorch"),
            own={"detach_reset": True, "fire_on_equal": False, "reset_delay": delayed},
            note=f"{'delayed and ' * delayed}detached reset, fires on >",
        ),
    ]
