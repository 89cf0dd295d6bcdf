"""The CUDA kernels as nvcc compiles them, by setup.py's own command: registers, memory accesses and rounding."""

import functools
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools
from emulation import CSRC, INCLUDES, MACROS, STANDINS, TORCH

ROOT = CSRC.parent
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
NVCC = shutil.which(CUDA / "bin" / "nvcc") or shutil.which("nvcc")
ARCHS = ("80", "90", "100")
SAME = [f"float, {x}, {x}, {pack}" for x, pack in (("float", 4), ("fastlif::BFloat16", 8), ("fastlif::Half", 8))]
BITS, CODE, INPUT = (f"(fastlif::gpu::Kept){i}, (fastlif::gpu::Norm)0" for i in range(3))
SHARED, EACH = (f"(fastlif::gpu::Kept)2, (fastlif::gpu::Norm){i}" for i in (1, 2))  # batch norm before, input kept

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc")


def cuobjdump() -> str | None:
    triton = find_spec("triton")
    bundled = triton and Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return shutil.which("cuobjdump") or (str(bundled) if bundled and bundled.exists() else None)


def run_setup(patch) -> dict:
    """What setup.py defines, from the root."""
    patch.chdir(ROOT)
    patch.setattr(setuptools, "setup", lambda **_: None)
    return runpy.run_path("setup.py")


def test_a_broken_nvcc(monkeypatch, tmp_path):
    """Is a reason to build without CUDA, said in full, and no traceback."""
    nvcc_for = run_setup(monkeypatch)["nvcc_for"]
    torch = SimpleNamespace(version=SimpleNamespace(cuda="13.0"))
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for script, why in (
        (None, "no nvcc"),
        ("echo no licence; exit 1", "nvcc --version failed: no licence"),
        ("echo nothing", "nvcc is of CUDA None, torch of CUDA 13.0"),
        ("echo release 12.9", "nvcc is of CUDA 12, torch of CUDA 13.0"),
        ("echo release 13.1", None),
    ):
        if script is not None:
            nvcc.write_text(f"#!/bin/sh\n{script}\n")
            nvcc.chmod(0o755)
        found, told = nvcc_for(torch)
        assert (found, told) == (str(nvcc), None) if why is None else found is None and why in told


@pytest.fixture(scope="module")
def objects(built):
    """Object files of csrc/*.cu for all architectures."""
    return {path.name.removesuffix(".cu.o"): str(path) for path in built("cuda", compile_all).glob("*.cu.o")}


def compile_all(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTLIF_CUDA_ARCHS", ";".join(ARCHS))
        recipe = run_setup(patch)
        extension = recipe["extension"]
        extension.include_dirs = [str(TORCH / "include"), "csrc"]
        extension.define_macros = [recipe["TARGET"], *recipe["CUDA_MACROS"]]
        build = recipe["Build"](setuptools.Distribution())
        build.extensions, build.build_temp = [extension], str(folder)
        for source in sorted(CSRC.glob("*.cu")):
            build.cuda_object(NVCC, str(source))


@functools.cache
def dump(path: str, *options: str) -> str:
    """cuobjdump's text with C++ names."""
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump: it comes with CUDA and with triton")
    text = subprocess.run([tool, *options, path], capture_output=True, text=True, check=True).stdout
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def sass(path: str) -> dict[str, list[str]]:
    """Instructions of every kernel for sm_90, by the kernel's name: opcodes without operands."""
    kernels = {}
    for part in dump(path, "-sass", "-arch", "sm_90").split("Function : ")[1:]:
        found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]+)", part, re.M)
        kernels[part.splitlines()[0]] = found
    return kernels


def chosen(kernels, *parts):
    names = [name for name in kernels if all(part in name for part in parts)]
    assert len(names) == 1, (parts, names)
    return kernels[names[0]]


def sizes(kernel: list[str], access: str) -> list[str]:
    """What follows `access` in the opcodes that begin with it."""
    return [op.removeprefix(access) for op in kernel if op.startswith(access)]


@pytest.mark.parametrize("which", ("cuda_forward", "cuda_backward", "cuda_channels", "planes"))
def test_nothing_spills(objects, which):
    """And registers leave an SM its threads: 512, or as many as shared memory holds (288) with a channel a neuron."""
    usage = dump(objects[which], "-res-usage")
    kernels = re.findall(r"Function (.*):\n\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert len(kernels) == len(ARCHS) * len(sass(objects[which])) > 0
    for name, registers, stack, shared, local in kernels:
        most = 168 if which == "cuda_backward" and EACH in name else 128
        assert int(registers) <= most and int(shared) <= 49 << 10 and (stack, local) == ("0", "0"), name


@pytest.mark.parametrize(
    "kept", (BITS, CODE, INPUT, SHARED, EACH), ids=("bits", "code", "input", "normal", "channels_last")
)
@pytest.mark.parametrize("types", SAME)
def test_accesses_of_16_bytes(objects, types, kept):
    """All but a thread's bytes of bits, its codes and the parameters."""
    forward = chosen(sass(objects["cuda_forward"]), f"<{types}, true, {kept}")
    backward = chosen(sass(objects["cuda_backward"]), f"<{types}, true, {kept}")
    codes = {".64" if types.endswith("8") else ""} if kept == CODE else set()
    bits = {".U8"} if kept != CODE else set()
    assert set(sizes(forward, "LDG.E.EF")) == {".128"}
    assert set(sizes(forward, "STG.E")) == {".128", ".U8"} | codes
    assert set(sizes(backward, "LDG.E.EF")) == {".128"} | bits | codes
    assert set(sizes(backward, "STG.E")) == {".128"}
    assert set(sizes(backward, "LDGSTS.E")) == (set() if kept in (BITS, CODE) else {".BYPASS.128"})


@pytest.mark.parametrize("values", ("unsigned short, 8", "unsigned int, 4", "unsigned long, 2"))
def test_planes_by_16_bytes(objects, values):
    kernels = sass(objects["planes"])
    assert sizes(chosen(kernels, "::pack_kernel", f"<{values}>"), "LDG.E") == [".EF.128"]
    assert [size[:4] for size in sizes(chosen(kernels, "unpack_kernel", f"<{values}>"), "STG.E")] == [".128"]


@pytest.mark.parametrize("types", SAME)
def test_channels_side_by_side(objects, types):
    """The numbers of a thread's channels come by 16 bytes too."""
    for which in ("cuda_forward", "cuda_backward"):
        assert ".128.CONSTANT" in sizes(chosen(sass(objects[which]), f"<{types}, true, {EACH}"), "LDG.E")


@pytest.mark.parametrize("which", ("cuda_forward", "cuda_backward"))
def test_every_operation_rounds_as_written(objects, which):
    """ptxas never fuses what is marked .rn; nothing flushes to zero and fuses but expf and over_scale."""
    ptx = dump(objects[which], "-ptx")
    found = re.findall(r"^\s*((?:add|sub|mul|div|fma|mad|rcp|sqrt)\.[\w.]*f(?:32|64))\s", ptx, re.M)
    exps = ptx.count("ex2.approx.ftz.f32")
    assert {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32"} <= set(found)
    assert not [op for op in found if not re.search(r"\.rn\.f(32|64)", op) and op != "fma.rm.f32"]
    assert found.count("fma.rm.f32") == exps == ptx.count("ftz")
    if which == "cuda_forward":  # where only over_scale divides
        assert found.count("fma.rn.f32") == 2 * found.count("div.rn.f32") and exps == 0


@pytest.mark.parametrize("types", SAME)
def test_nothing_is_fused_in_the_forward_loop(objects, types):
    for kept in (BITS, INPUT):
        forward = chosen(sass(objects["cuda_forward"]), f"<{types}, true, {kept}")
        assert "FMUL" in forward and "FADD" in forward
        assert not [op for op in forward if op.startswith("FFMA") or re.match(r"F(ADD|MUL|SETP)\b.*FTZ", op)]


STREAM = 'extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t, void**) { return 1; }'
LOAD = """
import sys, torch
torch.ops.load_library(sys.argv[1])
print(torch._C._dispatch_has_kernel_for_dispatch_key("fastlif::native_backward", "CUDA"))
"""


def test_the_extension_loads(objects, tmp_path):
    """module.cpp for CUDA and the kernels miss nothing but the one function that only torch's build for CUDA has."""
    (tmp_path / "standins.cpp").write_text(STANDINS + STREAM)
    runtime = CUDA / "lib64"
    command = [
        *os.environ.get("CXX", "c++").split(), "-std=c++20", "-O0", "-fPIC", "-shared", "-DFASTLIF_CUDA", "-DUSE_CUDA",
        *MACROS, *INCLUDES, *(path for path in CSRC.glob("*.cpp") if not path.stem.startswith("cpu")),
        tmp_path / "standins.cpp", *objects.values(), f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10",
        f"-L{runtime}", f"-Wl,-rpath,{runtime}", "-Wl,-z,now", "-lcudart", "-o", tmp_path / "extension.so",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    load = [sys.executable, "-c", LOAD, tmp_path / "extension.so"]
    assert subprocess.run(load, capture_output=True, text=True, check=True).stdout == "True\n"
