"""The device's own copy bandwidth, the floor of every kernel, and its clocks while it copies."""

import argparse
import sys
from pathlib import Path

import torch

from . import gpu_steps, machine
from .results import save
from .timing import alternate

QUEUE = 2000  # copies under way while the clocks are read


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args(arguments)
    source = torch.randint(256, (args.mib << 20,), dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    copies = {"copy": lambda: target.copy_(source)}
    times = alternate(copies, args.device, range(args.repeats), warm_up=5, ahead=True)["copy"]
    clocks = None
    if args.device == "cuda":
        for _ in range(QUEUE):
            target.copy_(source)
        clocks = gpu_steps.clocks()
        torch.cuda.synchronize()
    row = {"contender": "copy", "bytes": 2 * source.nbytes, "both": times, "clocks": clocks}
    row["bytes_per_second"] = row["bytes"] / times["median"]
    save(args.out, machine.describe(["gpu_copy", *arguments]) | {"benchmark": "copy", "rows": [row]})
    print(f"{row['bytes_per_second'] / 1e12:.3f} TB/s read and written, median of {times['repeats']}; clocks {clocks}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
