"""info: versions, and which backends can run here or why not."""

import os
import platform

import numpy
import torch

from .ops import backends, native


def info() -> str:
    """A report for people and bug reports: versions, devices, and every backend with its state.

    Printed by `fastlif info` in the shell.
    """
    from . import __version__

    versions = {"fastlif": __version__, "torch": torch.__version__, "numpy": numpy.__version__}
    versions["python"] = platform.python_version()
    lines = [
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"CPU: {torch.get_num_threads()} threads on {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
    ]
    if torch.cuda.is_available():
        lines += [
            f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    else:
        lines.append("CUDA: no device")
    lines.append(f"extension: {native.description()}")
    for name in backends.BACKENDS:
        device = torch.device("cpu" if name in ("reference", "cpu") else "cuda")
        why = backends.reasons(name, device, torch.float32)
        if device.type == "cuda" and not torch.cuda.is_available():
            why = [*why, "no CUDA device"]
        lines.append(f"backend {name}: {'no: ' + '; '.join(why) if why else 'ready'}")
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        lines.append(f"{kind} tensors use: {backends.choose(None, torch.device(kind), torch.float32)}")
    return "\n".join(lines)
