"""Our own speed over time: `pytest bench --benchmark-only`, with --benchmark-save and --benchmark-compare."""

import pytest

from .case import Case
from .contenders import select

CASE, TINY = Case(16, 1 << 16), Case(4, 16)
OURS = [c for c in select("cpu") if c.group in ("fastlif", "kernel")]


def run_of(contender):
    if why := contender.missing(CASE):
        pytest.skip(why)
    return contender.build(CASE, CASE.inputs())


@pytest.mark.parametrize("contender", OURS, ids=lambda c: c.name)
def test_forward_and_backward(benchmark, contender):
    benchmark(run_of(contender).both)


@pytest.mark.parametrize("contender", OURS, ids=lambda c: c.name)
def test_forward(benchmark, contender):
    benchmark(run_of(contender).forward)


def test_a_tiny_call(benchmark):
    contender = next(c for c in OURS if c.name == "fastlif rectangle exact")
    benchmark(contender.build(TINY, TINY.inputs()).both)
