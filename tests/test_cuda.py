"""The CUDA kernels without a GPU: their threads, run on the host, against the reference, bit for bit."""

import os
import subprocess
import sysconfig
from itertools import product
from pathlib import Path

import pytest
import test_backends
import torch
from cases import CASES, COMPACT, DELAYED, HARD, RESETS, SOFT, SURROGATES, Case, assert_same, run, tolerance
from hypothesis import given

from fastlif.ops import backends, native

CSRC = Path(__file__).parent.parent / "csrc"
TORCH = Path(torch.__file__).parent
MACROS = ["-DPy_LIMITED_API=0x030B0000", "-DTORCH_TARGET_VERSION=0x020B000000000000"]
INCLUDES = [f"-I{path}" for path in (CSRC, TORCH / "include", sysconfig.get_path("include"))]


class Twin:
    """csrc/twin.cpp as a backend: the library and its namespace under another name, in the place of the CPU's loops."""

    def __init__(self, library: Path):
        flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wno-psabi", "-fPIC", "-shared", "-Dfastlif=fastlif_twin"]
        sources = [CSRC / "module.cpp", CSRC / "twin.cpp"]
        libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        compiler = os.environ.get("CXX", "c++").split()
        subprocess.run([*compiler, *flags, *MACROS, *INCLUDES, *sources, *libraries, "-o", library], check=True)
        torch.ops.load_library(library)

    def reasons(self, device, dtype):
        return []

    def forward(self, call):
        torch.ops.fastlif_twin.native_forward(
            call.x, call.v0, *native.tensors(call), call.values, (*call.options, call.keep), native.inner(call),
            call.spikes, call.v, call.state,
        )  # fmt: skip

    def backward(self, call):
        torch.ops.fastlif_twin.native_backward(
            call.gs, call.gv, call.x, call.v0, *native.tensors(call), call.state, call.values,
            (*call.options, call.keep), native.inner(call), call.gx, *call.totals,
        )  # fmt: skip


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    backend = Twin(tmp_path_factory.mktemp("twin") / "twin.so")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends.BACKENDS, "twin", backend)
        yield "twin"


PACKS = [
    Case({**o, "truncate": k}, (19, n), d, learned=learned, v0=n != 1000, autocast=a)
    for o, k in product((SOFT, HARD, DELAYED, {**HARD, **COMPACT}, dict(reset="hard", **SOFT)), (None, 3, (7, 3)))
    for n, (d, a), learned in (
        (1000, (torch.float32, None), "none"),
        (1000, (torch.float32, torch.bfloat16), "scalar"),
        (1, (torch.float32, torch.float16), "none"),
        (1028, (torch.float32, None), "none"),
        (1025, (torch.bfloat16, None), "none"),
        (1024, (torch.bfloat16, None), "none"),
        (2064, (torch.float16, None), "each"),
        (7, (torch.float64, None), "channel"),
        (1026, (torch.float64, None), "none"),
    )
    if not (learned != "none" and o.get("state") == "compact")
]


@pytest.mark.parametrize("case", [*CASES, *PACKS], ids=str)
def test_threads_on_the_host(case, twin):
    assert_same(run(case, twin), run(case, "reference"), tolerance(case))


@given(case=test_backends.random_cases())
def test_random_threads(case, twin):
    assert_same(run(case, twin), run(case, "reference"), tolerance(case))


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: "-".join(map(str, s)))
def test_nan_and_infinity(surrogate, reset, twin):
    test_backends.test_nan_and_infinity(surrogate, reset, ("cpu", twin))
