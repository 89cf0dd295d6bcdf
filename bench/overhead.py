"""A call's overhead: forward + backward on a small tensor, beside operators of the same signature that do nothing."""

import argparse
import itertools
import sys
from pathlib import Path

import torch
from tqdm import tqdm

import fastlif
from fastlif.ops import state

from . import machine, ours
from .case import Case
from .report import table, write_report
from .results import failure, save
from .timing import alternate

USUAL = {"cpu": ([4], [16], ["float32"]), "cuda": ([4, 16], [1 << 16], ["float32", "bfloat16"])}
library = torch.library.Library("fastlif_bench", "FRAGMENT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", "-T", type=int, nargs="+", help="default: 4; on a GPU 4 and 16")
    parser.add_argument("--neurons", type=int, nargs="+", help="default: 16; on a GPU 64 K")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="JSON file; printed only unless given")


def main(args: argparse.Namespace, command: list[str]) -> int:
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    machine.warn_if_busy()
    head = machine.describe(command) | {"benchmark": "overhead"}
    result = head | {"rows": [row for case in cases(args, device) for row in measure(case, args.repeats)]}
    if args.out:
        save(args.out, result)
        write_report(args.out)
    print(table(result))
    return int(any(row["status"] == "failed" for row in result["rows"]))


def cases(args: argparse.Namespace, device: str) -> list[Case]:
    """The workloads asked for: the product of the lists."""
    given = zip((args.steps, args.neurons, args.dtype), USUAL[device], strict=True)
    return [Case(*values, device=device) for values in itertools.product(*(a or usual for a, usual in given))]


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


def measure(case: Case, repeats: int) -> list[dict]:
    """A row for each backend and format, in seconds: the call, and `empty`, what does nothing and is the faster.

    `twin` is the empty operator, `nobody` fastlif's own, given no neurons: both with the gradient that torch.library
    registers, past whose layers an eager call of fastlif.lif goes (fastlif/ops/eager.py).
    """
    rows = []
    for backend in ("cpu",) if case.device == "cpu" else ("cuda", "triton"):
        for name, (surrogate, state_name) in ours.FORMATS.items():
            row = {"case": case.as_dict(), "contender": f"{backend} {name}", "group": "fastlif", "status": "ok"}
            row |= {"format": name, "backend": backend}
            rows.append(row)
            if why := ours.missing(backend, case):
                row |= {"status": "not available", "reason": why}
                continue
            try:
                calls = calls_of(case, case.form(surrogate), state_name, backend)
                rounds = tqdm(range(repeats), desc=row["contender"], leave=False, file=sys.stderr)
                row |= alternate(calls, case.device, rounds, warm_up=50)
                row["empty"] = min(row["twin"], row["nobody"], key=lambda times: times["median"])
            except Exception as error:  # whatever it is, it is a result to report
                row |= failure(error)
    return rows


def calls_of(case: Case, form: dict, state_name: str, backend: str) -> dict:
    """What is timed, forward + backward."""
    empty, (x, gs, *_) = empty_operator(), case.inputs()
    x.requires_grad_()
    neuron = fastlif.Neuron(**form, state=state_name)
    keep = int(state.choose(neuron, True, False, False))
    rest = None, None, None, None, neuron.values, neuron.options, keep, False, x.dtype, backend
    none = x.detach()[:, :0].requires_grad_()

    def call():
        torch.autograd.grad(fastlif.lif(x, **form, state=state_name, backend=backend)[0], x, gs)

    def twin():
        torch.autograd.grad(empty(x, *rest)[0], x, gs)

    def nobody():
        torch.autograd.grad(torch.ops.fastlif.lif_forward(none, *rest)[0], none, gs[:, :0])

    return {"call": call, "twin": twin, "nobody": nobody}
