"""kept: what fastlif keeps for backward in local truncated BPTT, run block by block inside a window, from shapes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from ..memory import Choice, saved_bytes
from ..memory.plan import UNKNOWN, set_up
from ..models.blocks import split, trainable
from ..nn import LIF, PerStep, Stateful, detach_state, reset_state
from .layers import check
from .local import check_classifiers, check_sizes, depth


@dataclass(frozen=True)
class Kept:
    """Bytes. blocks: what the graph of each block keeps for backward, its classifier's included; most: of these, all
    that is alive at once. membranes: carried from window to window, in all blocks, at any time."""

    blocks: tuple[int, ...]
    most: int
    membranes: int
    k: int
    n: int


def kept(
    net: nn.Module,
    x: torch.Tensor,
    *,
    k: int | None = None,
    n: int | None = None,
    classifiers: str = "trainable",
    neurons: Callable[[], nn.Module] = LIF,
    choice: Choice | None = None,
) -> Kept:
    """Predict what backward keeps in windows of k steps and local blocks of n layers.

    Each block runs a whole window in one call and learns from it before the next block runs: one block's graph is alive
    at a time, at every k, where the paper has that at k = 1 alone (section 4.1; `local_bptt` counts as it does). So the
    most grows with the window's length and with the largest block. Counted is what `fastlif.saved_bytes` counts for
    block and classifier on a window: the parameters are not, nor is the block's input, which is there anyway, but for
    the bits that a layer makes of spikes. Nothing is computed: the blocks run, in the network's present mode, on
    tensors without memory, as in `fastlif.plan`; autocast is as where this is called.

    Args:
        net, k, n, classifiers: as for `local_bptt`; net's own layers of neurons carry their membranes, whatever their
            `carry_state`. Weights of random classifiers need no gradient.
        x: [T, B, ...]: only its shape and dtype matter, and whether it is one input expanded over T (direct encoding),
            of which the first layer keeps a copy for each step.
        neurons: makes the neurons of the classifiers, the readout's too if it does not end in some.
        choice: one of `fastlif.plan`'s, applied to every block: state, spikes as bits, recomputation, windows of
            `checkpoint_time` inside the window; None for the network as it is.

    Raises:
        TypeError, ValueError: as `local_bptt`; the choice cannot serve a block.
        RuntimeError: the network's forward reads values of tensors, so that shapes are not enough; or it fails on x.
    """
    check(net, x)
    check_classifiers(classifiers)
    check_sizes(k=k)
    k = min(k or x.shape[0], x.shape[0])
    n = depth(net) if n is None else n
    device = next((t.device for t in (*net.parameters(), *net.buffers())), x.device)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with FakeCopyMode(mode):
            fake = reset_state(copy.deepcopy(net))
        repeated = k > 1 and x.stride(0) == 0
        window = torch.empty((1 if repeated else k, *x.shape[1:]), dtype=x.dtype, device=device)
        window = window.expand(k, *x.shape[1:])
        try:
            parts = with_classifiers(fake, split(fake.stages, n), window, classifiers == "trainable", neurons)
            trained = [part if choice is None else set_up(part, choice) for part in parts]
            lengths = k, min(k, x.shape[0] - k)  # of the first window and the second, which starts from membranes
            runs = [kept_by(parts, trained, window[:length]) for length in lengths if length]
        except UNKNOWN as error:
            raise RuntimeError(f"shapes alone do not tell: the network reads values of tensors ({error})") from error
    blocks = tuple(map(max, zip(*runs, strict=True)))
    membranes = sum(layer.v.untyped_storage().nbytes() for part in trained for layer in neurons_in(part))
    return Kept(blocks, max(blocks), membranes, k, n)


def with_classifiers(
    net: nn.Module, blocks: list[nn.Sequential], x: torch.Tensor, learned: bool, neurons: Callable[[], nn.Module]
) -> list[nn.Sequential]:
    """(block, classifier) for each, all neurons carrying; the last classifier is net.readout. Changes `net`."""
    last = trainable(net.readout)[-1]
    ends = [module for module in net.readout.modules() if not next(module.children(), None)]
    readout = net.readout if isinstance(ends[-1], Stateful) else nn.Sequential(net.readout, neurons())
    parts = []
    for block in blocks[:-1]:
        with torch.no_grad():
            x = block(x)
        linear = nn.Linear(x[0, 0].numel(), last.weight.shape[0], device=x.device, dtype=last.weight.dtype)
        linear.requires_grad_(learned)
        parts.append(nn.Sequential(block, nn.Sequential(PerStep(nn.Flatten(), linear), neurons())))
    last.requires_grad_(learned and last.weight.requires_grad)
    parts.append(nn.Sequential(blocks[-1], readout))
    for part in parts:
        for layer in neurons_in(part):
            layer.carry_state, layer.v = True, None
    return parts


def kept_by(parts: list[nn.Sequential], trained: list[nn.Module], x: torch.Tensor) -> list[int]:
    """Bytes that each trained part keeps on a window x, or on what the part before puts out."""
    found = []
    for part, module in zip(parts, trained, strict=True):
        found.append(saved_bytes(module, x).total)
        x = part[0](x).detach()  # not in no_grad: what is known of spikes goes along
        detach_state(part)
        detach_state(module)
    return found


def neurons_in(module: nn.Module) -> list[Stateful]:
    """Its layers of neurons."""
    return [part for part in module.modules() if isinstance(part, Stateful)]
