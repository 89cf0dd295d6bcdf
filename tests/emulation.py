"""The GPU backend on a CPU: csrc/*.cu compiled for it with tests/emulation.h, as a backend."""

import os
import re
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from fastlif.ops import native

HEADER = Path(__file__).parent / "emulation.h"
CSRC = Path(__file__).parent.parent / "csrc"
TORCH = Path(torch.__file__).parent
MACROS = ["-DPy_LIMITED_API=0x030B0000", "-DTORCH_TARGET_VERSION=0x020B000000000000"]
INCLUDES = [f"-I{path}" for path in (CSRC, TORCH / "include", sysconfig.get_path("include"))]
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-psabi", "-fPIC"]
STANDINS = """
#include "channels.h"
void fastlif::cpu_run(const Forward&, Type, Type) {}
void fastlif::cpu_run(const Backward&, Type, Type) {}
void fastlif::cpu_channel_sums(const ChannelSums&, Type) {}
void fastlif::cpu_finish(const Backward&, Type) {}
const char* fastlif::cpu_instruction_set() { return ""; }
"""
DEVICE = """
extern "C" int32_t emulated_device(int32_t, void**) { return 0; }
extern "C" int32_t emulated_no_device(void*) { return 0; }
extern "C" int32_t emulated_stream(int32_t, void**) { return 0; }
"""
ALL_TO_THE_GPU = """
#include <torch/csrc/stable/tensor.h>
#define is_cpu is_cuda
"""


def build(folder: Path, *flags: str) -> None:
    """Make emulated.so in `folder`, with further `flags`."""
    for header in ("cuda_runtime", "cuda_bf16", "cuda_fp16", "cuda_pipeline"):
        (folder / f"{header}.h").touch()
    (folder / "standins.cpp").write_text(STANDINS + DEVICE)
    (folder / "gpu.h").write_text(ALL_TO_THE_GPU)
    jobs = [[folder / "standins.cpp"]]
    for source in sorted(CSRC.glob("*.cu")):
        launches = re.sub(r"([\w:]+(?:<[\w, ]+>)?)<<<(.+?)>>>", r"emulated::on(\1, \2)", source.read_text())
        (folder / f"{source.stem}.cpp").write_text(launches)
        jobs.append(["-DUSE_CUDA", "-include", HEADER, folder / f"{source.stem}.cpp"])
    for source in CSRC.glob("*.cpp"):
        if not source.stem.startswith("cpu"):
            jobs.append(["-DFASTLIF_CUDA", "-include", folder / "gpu.h", source])
    compiler = os.environ.get("CXX", "c++").split()
    command = [*compiler, *FLAGS, *flags, "-Dfastlif=fastlif_emulated", *MACROS, f"-I{folder}", *INCLUDES]
    objects = [folder / f"{i}.o" for i in range(len(jobs))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = ([*command, *job, "-c", "-o", target] for job, target in zip(jobs, objects, strict=True))
        list(pool.map(partial(subprocess.run, check=True), compiling))
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([*command, "-shared", *objects, *libraries, "-o", folder / "emulated.so"], check=True)


class Emulated(native.Native):
    """The library and its namespace have another name, and it takes a CPU's tensors for a GPU's."""

    def __init__(self, folder: Path):
        torch.ops.load_library(folder / "emulated.so")
        super().__init__("cpu", "fastlif_emulated")

    def reasons(self, device, dtype):
        return []
