"""Builds csrc/ into fastlif._C against PyTorch's stable ABI: one binary for Python >= 3.11 and torch >= 2.11.

FASTLIF_CUDA=auto|0|1: build the CUDA kernels where nvcc of torch's CUDA version is present | never | or fail.
FASTLIF_CUDA_ARCHS="80;90;100": the compute capabilities to build for, the last one also as PTX; by default these, as
far as nvcc knows them.
"""

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
STABLE_ABI = "0x020B000000000000"  # torch 2.11
# longest first
SOURCES = ("cpu_float", "cpu_half", "cpu_mixed", "cpu_double", "cpu_channels", "cpu", "planes", "module")
CUDA_MACROS = [("FASTLIF_CUDA", None), ("USE_CUDA", None)]


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


def told_by(*command):
    """What a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def nvcc_for(torch):
    """(nvcc, why not): nvcc if it can build for this torch."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if torch.version.cuda is None:
        return None, "this torch is built without CUDA"
    if not os.path.exists(nvcc):
        return None, "no nvcc (set CUDA_HOME)"
    version = re.search(r"release (\d+)", told_by(nvcc, "--version")).group(1)
    if version != torch.version.cuda.split(".")[0]:
        return None, f"nvcc is of CUDA {version}, torch of CUDA {torch.version.cuda}"
    return nvcc, None


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
        lib = Path(torch.__file__).parent / "lib"
        for extension in self.extensions:
            extension.include_dirs += [str(lib.parent / "include"), "csrc"]
            extension.library_dirs.append(str(lib))
            extension.libraries += ["torch", "torch_cpu", "c10"]
            if nvcc is None:
                continue
            try:
                extension.extra_objects += self.cuda_objects(nvcc, extension)
            except subprocess.CalledProcessError as error:
                if wanted == "1":
                    raise SystemExit(f"fastlif: failed: {' '.join(error.cmd)}") from None
                print("fastlif: no CUDA kernels: nvcc failed; FASTLIF_CUDA=1 makes that an error", file=sys.stderr)
                continue
            extension.libraries += ["torch_cuda", "cudart"]
            extension.define_macros += CUDA_MACROS
        self.compile_side_by_side()
        super().build_extensions()

    def compile_side_by_side(self):
        """Has the compiler take as many sources at a time as there are processors."""
        compile_one = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [made for found in pool.map(lambda s: compile_one([s], **options), sources) for made in found]

        self.compiler.compile = compile_all

    def cuda_objects(self, nvcc, extension):
        """Object files of csrc/*.cu; CalledProcessError if nvcc fails. Adds where the CUDA runtime is."""
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        known = told_by(nvcc, "--list-gpu-arch").split()
        archs = os.environ.get("FASTLIF_CUDA_ARCHS")
        archs = archs.split(";") if archs else [a for a in ("80", "90", "100") if f"compute_{a}" in known]
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        macros = [
            f"-D{name}" + (f"={value}" if value else "") for name, value in (*extension.define_macros, *CUDA_MACROS)
        ]
        includes = [f"-I{path}" for path in extension.include_dirs]
        flags = [
            "-O3",
            "-std=c++20",
            "-fmad=false",
            "-Xcompiler",
            "-fPIC",
            "--threads",
            "0",
            "--expt-relaxed-constexpr",
        ]
        jobs = []
        for source in sorted(Path("csrc").glob("*.cu")):
            target = str(Path(self.build_temp) / f"{source.stem}.cu.o")
            command = [nvcc, *flags, *codes, *macros, *includes, "-c", str(source), "-o", target]
            jobs.append((target, command, subprocess.Popen(command)))
        codes_of_exit = [process.wait() for _, _, process in jobs]
        for (_, command, _), code in zip(jobs, codes_of_exit, strict=True):
            if code != 0:
                raise subprocess.CalledProcessError(code, command)
        with tempfile.NamedTemporaryFile(suffix=".cu") as empty:  # nvcc may be a wrapper: ask it where they are
            extension.library_dirs += re.findall(r'"-L([^"]+)"', told_by(nvcc, "--dryrun", "-c", empty.name))
        return [target for target, _, _ in jobs]


class Wheel(bdist_wheel):
    """A wheel for every Python that has the limited API."""

    def get_tag(self):
        _, _, platform = super().get_tag()
        return "cp311", "abi3", platform


extension = setuptools.Extension(
    "fastlif._C",
    [f"csrc/{name}.cpp" for name in SOURCES],
    depends=[str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*")],
    define_macros=[("TORCH_TARGET_VERSION", STABLE_ABI)],
    extra_compile_args=["-std=c++20", "-O3", "-ffp-contract=off", "-Wno-psabi", "-fvisibility=hidden"],
    py_limited_api=True,  # it needs nothing of Python, not even its headers: torch loads it
    language="c++",
)

setuptools.setup(
    ext_modules=[extension],
    setup_requires=[] if find_torch() else [TORCH],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
