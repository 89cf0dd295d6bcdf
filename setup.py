"""Builds csrc/ into fastlif._C against PyTorch's stable ABI: one binary for Python >= 3.11 and torch >= 2.11.

FASTLIF_CUDA=auto|0|1: build the CUDA kernels where nvcc of torch's CUDA version is present | never | or fail.
FASTLIF_CUDA_ARCHS="80;90;100": the compute capabilities to build for, the last one also as PTX; by default these, as
far as nvcc knows them.
"""

import functools
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TORCH = "torch>=2.11,<2.14"
TARGET = ("TORCH_TARGET_VERSION", "0x020B000000000000")  # 2.11
# longest first
SOURCES = ("cpu_bfloat16", "cpu_half", "cpu_mixed_bfloat16", "cpu_mixed_half", "cpu_float", "cpu_double")
SOURCES += ("cpu_channels", "module", "channels", "planes", "cpu")
CUDA_MACROS = [("FASTLIF_CUDA", None), ("USE_CUDA", None)]
NVCC_FLAGS = ["-O3", "-std=c++20", "-fmad=false", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr"]
NVCC_FLAGS += ["--threads", "0", "--split-compile", "0"]  # as many threads as there are processors


def find_torch():
    """The environment's torch, also when pip's isolated build hides it; None if there is none."""
    try:
        import torch
    except ImportError:
        for prefix in (sys.prefix, sys.base_prefix):
            places = {"base": prefix, "platbase": prefix}
            sys.path += [sysconfig.get_path(kind, vars=places) for kind in ("purelib", "platlib")]
        sys.path.append(site.getusersitepackages())
        try:
            import torch
        except ImportError:
            return None
    return torch


class NvccError(Exception):
    """The compiler of CUDA failed."""


def told_by(*command):
    """What nvcc prints; NvccError if it cannot."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise NvccError(f"{' '.join(command)} failed: {error}") from None
    if done.returncode != 0:
        raise NvccError(f"{' '.join(command)} failed: {done.stdout}")
    return done.stdout


def nvcc_for(torch):
    """(nvcc, why not): nvcc if it can build for this torch."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if torch.version.cuda is None:
        return None, "this torch is built without CUDA"
    if not os.path.exists(nvcc):
        return None, "no nvcc (set CUDA_HOME)"
    try:
        told = told_by(nvcc, "--version")
    except NvccError as error:
        return None, str(error)
    version = re.search(r"release (\d+)", told)
    if version is None or version.group(1) != torch.version.cuda.split(".")[0]:
        return None, f"nvcc is of CUDA {version and version.group(1)}, torch of CUDA {torch.version.cuda}"
    return nvcc, None


def cuda_libraries(nvcc):
    """Where the CUDA runtime is: nvcc knows, which may be a wrapper."""
    with tempfile.NamedTemporaryFile(suffix=".cu") as empty:
        return re.findall(r'"-L([^"]+)"', told_by(nvcc, "--dryrun", "-c", empty.name))


class Build(build_ext):
    """Adds torch's headers, and compiles .cu files with nvcc where that is possible."""

    def build_extensions(self):
        torch = find_torch()
        if torch is None:
            raise SystemExit(f"fastlif: building needs {TORCH}, and this environment has none")
        wanted = os.environ.get("FASTLIF_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            raise SystemExit(f"fastlif: FASTLIF_CUDA must be auto, 0 or 1, got {wanted!r}")
        nvcc, why = (None, "FASTLIF_CUDA=0") if wanted == "0" else nvcc_for(torch)
        if wanted == "1" and nvcc is None:
            raise SystemExit(f"fastlif: FASTLIF_CUDA=1, but the CUDA kernels cannot be built: {why}")
        print(f"fastlif: {f'CUDA kernels with {nvcc}' if nvcc else f'no CUDA kernels: {why}'}", file=sys.stderr)
        self.force = True  # what lies there may be of another torch, or without CUDA
        try:
            self.setup_extension(Path(torch.__file__).parent, nvcc)
            super().build_extensions()
        except NvccError as error:
            if wanted == "1":
                raise SystemExit(f"fastlif: {error}") from None
            print(f"fastlif: no CUDA kernels, which FASTLIF_CUDA=1 makes an error: {error}", file=sys.stderr)
            self.setup_extension(Path(torch.__file__).parent, None)
            super().build_extensions()

    def setup_extension(self, torch, nvcc):
        """Has the extension built against torch in this folder, with csrc/*.cu if there is an nvcc to build them."""
        (own,) = self.extensions
        own.include_dirs, own.library_dirs = [str(torch / "include"), "csrc"], [str(torch / "lib")]
        own.libraries, own.define_macros = ["torch", "torch_cpu", "c10"], [TARGET]
        if nvcc:
            own.library_dirs += cuda_libraries(nvcc)
            own.libraries += ["torch_cuda", "cudart"]
            own.define_macros += CUDA_MACROS
        self.compiler.compile = functools.partial(self.compile_side_by_side, type(self.compiler).compile, nvcc)

    def compile_side_by_side(self, compile_one, nvcc, sources, **options):
        """Object files of the sources, and of csrc/*.cu if there is nvcc: as many at a time as there are processors."""

        def made(source):
            if source.endswith(".cu"):
                return [self.cuda_object(nvcc, source)]
            return compile_one(self.compiler, [source], **options)

        sources = [*(sorted(map(str, Path("csrc").glob("*.cu"))) if nvcc else []), *sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [path for paths in pool.map(made, sources) for path in paths]

    def cuda_object(self, nvcc, source):
        """The object file of a .cu file; NvccError if nvcc fails."""
        (own,) = self.extensions
        known = told_by(nvcc, "--list-gpu-arch").split()
        archs = os.environ.get("FASTLIF_CUDA_ARCHS")
        archs = archs.split(";") if archs else [a for a in ("80", "90", "100") if f"compute_{a}" in known]
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        macros = [f"-D{name}" + (f"={value}" if value else "") for name, value in own.define_macros]
        includes = [f"-I{path}" for path in own.include_dirs]
        target = Path(self.build_temp, f"{Path(source).stem}.cu.o")
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [nvcc, *NVCC_FLAGS, *codes, *macros, *includes, "-c", source, "-o", str(target)]
        if subprocess.run(command).returncode != 0:
            raise NvccError(f"failed: {' '.join(command)}")
        return str(target)


class Wheel(bdist_wheel):
    """A wheel for every Python that has the limited API."""

    def get_tag(self):
        _, _, platform = super().get_tag()
        return "cp311", "abi3", platform


extension = setuptools.Extension(
    "fastlif._C",
    [f"csrc/{name}.cpp" for name in SOURCES],
    depends=[str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*")],
    extra_compile_args=["-std=c++20", "-O3", "-ffp-contract=off", "-Wno-psabi", "-fvisibility=hidden", "-g0"],
    py_limited_api=True,  # it needs nothing of Python, not even its headers: torch loads it
    language="c++",
)

setuptools.setup(
    ext_modules=[extension],
    setup_requires=[] if find_torch() else [TORCH],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
