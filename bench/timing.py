"""Timing: all contenders alternating within one run, each repetition by itself, on the device's own clock."""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch

HEAD_START = 2_000_000  # cycles: 1 ms


def cpu_seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


def cuda_seconds(call: Callable[[], object], ahead: bool = False) -> float:
    """Seconds of one call between two events, on an idle device; `ahead`: launched while the device still sleeps, as in
    training the CPU runs ahead, so that a kernel's time is its own."""
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if ahead:
        torch.cuda._sleep(HEAD_START)
    start.record()
    result = call()
    stop.record()
    stop.synchronize()
    del result
    return start.elapsed_time(stop) / 1e3


def alternate(
    calls: dict[str, Callable[[], object]], device: str, rounds: Iterable[int], warm_up: int = 2, ahead: bool = False
) -> dict[str, dict]:
    """Time every call once a round, each round starting with another one: {name: summary}."""
    clock, names = cpu_seconds if device == "cpu" else partial(cuda_seconds, ahead=ahead), list(calls)
    for _ in range(warm_up):
        for name in names:
            clock(calls[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in rounds:
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            seconds[name].append(clock(calls[name]))
    return {name: summary(values) for name, values in seconds.items()}


def summary(seconds: list[float]) -> dict:
    """Median and quartiles in seconds, and how many repetitions."""
    if len(seconds) < 2:
        return {"median": seconds[0], "q1": seconds[0], "q3": seconds[0], "repeats": len(seconds)}
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "repeats": len(seconds)}
