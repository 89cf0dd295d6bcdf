"""Peak memory of one forward + backward: from CUDA's allocator, or as resident memory of a fresh process."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from fastlif.train.measure import resident

from .case import Case
from .contenders import TABLE
from .machine import KEEP_PAGES


def of_device(call: Callable[[], object]) -> int:
    """Bytes that a call allocates on the GPU at its peak, beyond what was allocated before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def of_fresh_process(case: Case, contender: str) -> int | None:
    """Bytes by which resident memory grows over x and the gradient of the spikes; None where /proc does not tell."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_PAGES}
    command = [sys.executable, "-m", "bench", "peak", "--case", json.dumps(case.as_dict()), "--contender", contender]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", type=json.loads, required=True)
    parser.add_argument("--contender", required=True)


def main(args: argparse.Namespace) -> int:
    """The fresh process: warm up, forget the peak so far (a compiler's may be larger), run once, print the growth."""
    case = Case(**args.case)
    contender = next(c for c in TABLE if c.name == args.contender)
    x, gs = case.inputs()
    before = resident("VmRSS")
    run = contender.build(case, x, gs)
    run.both()
    reset = Path("/proc/self/clear_refs")
    if before is None or not os.access(reset, os.W_OK):
        print("null")
        return 0
    reset.write_text("5")
    run.both()
    print(resident("VmHWM") - before)
    return 0
