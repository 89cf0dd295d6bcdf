"""Measuring a training run: memory of this process, neurons at work, and the machine it ran on."""

import os
import platform
import re
import sys
from pathlib import Path

import torch
from torch import nn

STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak: allocated on a GPU, resident for this whole process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resident("VmHWM")  # unlike ru_maxrss it does not begin with the peak of the process that started this one
    if peak is not None:
        return peak
    import resource  # not everywhere

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_now(device: torch.device) -> int:
    """Bytes held now, as `peak_memory` counts them; the peak so far where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    now = resident("VmRSS")
    return peak_memory(device) if now is None else now


def resident(field: str) -> int | None:
    """VmRSS, the bytes of this process that are resident, or VmHWM, the most that ever were; None outside Linux."""
    if not STATUS.exists():
        return None
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())[1])


def synchronize(device: torch.device) -> None:
    """Wait until the device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def neuron_steps(net: nn.Module, x: torch.Tensor, kinds: type | tuple[type, ...]) -> int:
    """Neurons times steps in one forward pass over x [T, B, ...]: elements that layers of `kinds` put out."""
    counts = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: counts.append(output.numel()))
        for module in net.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return sum(counts)


def machine(device: torch.device) -> dict[str, object]:
    """What a measurement ran on and with."""
    from .. import __version__

    found = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastlif": __version__,
        "device": str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
