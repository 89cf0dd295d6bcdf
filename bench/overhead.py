"""A call's overhead: forward + backward on a tiny tensor, above an operator of the same signature that does nothing."""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

import fastlif
from fastlif.ops import state

from . import machine, ours
from .case import Case
from .report import table, write_report
from .results import save
from .timing import alternate

TARGET = 60e-6  # seconds, at most
library = torch.library.Library("fastlif_bench", "FRAGMENT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="JSON file; printed only unless given")


def main(args: argparse.Namespace, command: list[str]) -> int:
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    machine.warn_if_busy()
    head = machine.describe(command) | {"benchmark": "overhead"}
    rows = measure(device, args.repeats)
    result = head | {"rows": rows, "target": TARGET}
    if args.out:
        save(args.out, result)
        write_report(args.out)
    print(table(result))
    return 0


def empty_operator():
    """fastlif::lif_forward's twin, registered the same way, which only allocates outputs, plainly; defined once."""
    if not hasattr(torch.ops.fastlif_bench, "lif_forward"):
        allocate = {"lif_forward": _empty_forward, "lif_backward": _empty_backward}
        for name, allocation in allocate.items():
            schema = str(getattr(torch.ops.fastlif, name).default._schema).removeprefix("fastlif::")
            library.define(schema, tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))
            for key in ("CPU", "CUDA"):
                library.impl(name, allocation, key)
            torch.library.register_fake(f"fastlif_bench::{name}", allocation, lib=library)
        torch.library.register_autograd(
            "fastlif_bench::lif_forward", _gradient, setup_context=_setup_context, lib=library
        )
    return torch.ops.fastlif_bench.lif_forward


def _empty_forward(x, v0, decay, gain, threshold, values, options, keep, emit, dtype, backend):
    return torch.empty_like(x), x.new_empty(x.shape[1:]), x.new_empty(0), x.new_empty(0)


def _empty_backward(gs, gv, x, v0, decay, gain, threshold, state, bits, size, stride, dtype, *rest):
    return torch.empty_like(gs), *(gs.new_empty(0) for _ in range(4))


def _setup_context(ctx, inputs, output):
    x, v0, decay, gain, threshold, values, options, keep, _, _, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, v0, decay, gain, threshold, output[2])
    ctx.rest = values, options, keep, backend


def _gradient(ctx, gs, gv, *_):
    values, options, keep, backend = ctx.rest
    x, v0, decay, gain, threshold, kept = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[1:5])
    gx, *_ = torch.ops.fastlif_bench.lif_backward(
        gs, gv, x, v0, decay, gain, threshold, kept, None, x.shape, x.stride(), x.dtype, values, options, keep, needs,
        backend,
    )  # fmt: skip
    return gx, *(None,) * 10


def measure(device: str, repeats: int) -> list[dict]:
    """A row for each format: the call, the empty operator, and the difference of their medians, in seconds."""
    case = Case(4, 16, device=device)
    x, gs = case.inputs()
    x.requires_grad_()
    empty, rows = empty_operator(), []
    for name, (surrogate, state_name) in ours.FORMATS.items():
        form = case.form(surrogate)
        neuron = fastlif.Neuron(**form, state=state_name)
        keep = int(state.choose(neuron, True, False, False))
        backend = ours.in_use(case)

        def call(form=form, state_name=state_name):
            torch.autograd.grad(fastlif.lif(x, **form, state=state_name)[0], x, gs)

        def nothing(neuron=neuron, keep=keep, backend=backend):
            outputs = empty(x, None, None, None, None, neuron.values, neuron.options, keep, False, x.dtype, backend)
            torch.autograd.grad(outputs[0], x, gs)

        calls = {"call": call, "empty": nothing}
        rounds = tqdm(range(repeats), desc=name, leave=False, file=sys.stderr)
        times = alternate(calls, device, rounds, warm_up=50)
        rows.append(
            {"contender": name, "backend": backend, "overhead": times["call"]["median"] - times["empty"]["median"]}
            | times
        )
    return rows
