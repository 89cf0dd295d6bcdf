"""Peak memory of one forward + backward: from CUDA's allocator, or as resident memory of a fresh process."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from fastlif.train.measure import resident

from .machine import KEEP_PAGES


def of_device(call: Callable[[], object]) -> int:
    """Bytes that a call allocates on the GPU at its peak, beyond what was allocated before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def of_fresh_process(benchmark: str, case: dict, contender: str) -> int | None:
    """Bytes by which resident memory grows over a workload's input; None where /proc does not tell."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_PAGES}
    command = [sys.executable, "-m", "bench", "peak", "--benchmark", benchmark, "--case", json.dumps(case)]
    command += ["--contender", contender]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # libraries print too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", choices=("layer", "network", "onm"), default="layer")
    parser.add_argument("--case", type=json.loads, required=True)
    parser.add_argument("--contender", required=True)


def main(args: argparse.Namespace) -> int:
    """The fresh process: warm up, forget the peak so far (a compiler's may be larger), run once, print the growth."""
    module = importlib.import_module(f".{args.benchmark}", __package__)
    start = module.starter(args.case, args.contender)
    before = resident("VmRSS")
    run = start()
    run()
    reset = Path("/proc/self/clear_refs")
    if before is None or not os.access(reset, os.W_OK):
        print("null")
        return 0
    reset.write_text("5")
    run()
    print(resident("VmHWM") - before)
    return 0
