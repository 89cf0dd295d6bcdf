"""Where a result comes from: machine, versions, commit and command; and the process that measurements run in.

torch is imported where it is asked: bench/gpu.py comes before the build.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("torch", "triton", "numpy", "spikingjelly", "snntorch", "norse")
KEEP_PAGES = {  # glibc hands no page back: otherwise page faults on fresh memory drown what is measured
    "MALLOC_MMAP_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "MALLOC_ARENA_MAX": "1",
}

QUIET = {"KINETO_LOG_LEVEL": "99"}  # the profiler counts allocations for us, and says so each time


def run_keeping_pages(arguments: list[str]) -> None:
    """Start this program again with an allocator that keeps freed pages; returns where that is so already."""
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in KEEP_PAGES.items()):
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, "-m", "bench", *arguments], os.environ | KEEP_PAGES | QUIET)


@contextlib.contextmanager
def giving_pages_back() -> Iterator[None]:
    """Inside: processes that are started hand freed pages back, as programs do, so that their peak is their own."""
    kept = {name: os.environ.pop(name) for name in KEEP_PAGES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def keeps_pages() -> bool:
    """Whether this process runs with such an allocator."""
    return all(os.environ.get(name) == value for name, value in KEEP_PAGES.items())


def warn_if_busy() -> None:
    """Say so when others compute on this machine: parallel loops then wait for them, and every ratio is off."""
    if os.getloadavg()[0] > 0.5:
        print(f"warning: load average {os.getloadavg()[0]:.1f}; times will mean little", file=sys.stderr)


def page_faults() -> int:
    """Pages this process has touched for the first time so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def available_bytes(device: str) -> int:
    """Memory that a workload may take."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """Installed version, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, "-dirty" if files differ that are no results; None outside one. BENCH_COMMIT overrides."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    try:
        where = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **where).stdout.strip()
        status = ["git", "status", "--porcelain", "--", ":/", ":(top,exclude)bench/results"]
        changed = subprocess.run(status, **where).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")


def describe(arguments: list[str]) -> dict:
    """The head of every result file."""
    import torch

    import fastlif

    return {
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "allocator_keeps_pages": keeps_pages(),
            "load_at_start": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "fastlif": fastlif.__version__, "cuda": torch.version.cuda}
        | {package: version(package) for package in PACKAGES},
        "commit": commit(),
        "command": " ".join(["python -m bench", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
