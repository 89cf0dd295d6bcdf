"""What a GPU must reach, as data; and the table of what of it a folder of results shows.

python -m bench targets bench/results/h200
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from .verdict import BACKENDS, MET, MISSED, UNKNOWN, Proof, Target, Verdict, read

LARGE, MIDDLE, SMALL = 1 << 24, 1 << 20, 1 << 16  # neurons
RESETS, DTYPES = ("soft", "hard"), ("float32", "bfloat16")
FORMATS = ("triangle exact", "triangle compact", "rectangle exact")
FUSED, HALF = ("spikingjelly cuda", "spikingjelly triton"), ("spikingjelly half",)  # half: h in x's dtype, inexact
TESTED = ("tests-cuda", "tests-triton")
NOTE = """\
Bandwidth counts what must move: x, the spikes and both gradients, what is kept, and the final membrane, an output of
4/T bytes a neuron and step. SpikingJelly is its fastest backend that is exact; one that keeps h in bfloat16 is judged
apart. Beside torch.compile T=128 is one case: float32, soft reset, 1 M neurons. A network's memory is with its weights.
"""


def targets() -> Iterator[Target | Proof]:
    """All of them, in the order of the table."""
    yield from correct()
    yield from at_the_limit()
    yield from layers_beside_others()
    yield from networks_beside_others()


def correct() -> Iterator[Proof]:
    yield Proof("spikes and gradients as on a CPU", (*TESTED, "tests-huge"))
    yield Proof("repeated runs the same bit for bit", TESTED, "test_runs_repeat")
    yield Proof("a captured CUDA graph replays", TESTED, "test_a_captured_graph_replays")
    yield Proof("two streams at once", TESTED, "test_two_streams_at_once")
    yield Proof("more than 2^31 elements", ("tests-huge",), "test_more_elements_than_32_bits_count")
    yield Proof("sanitizers find nothing", ("memcheck", "racecheck", "initcheck"))


def at_the_limit() -> Iterator[Target]:
    """Of memory, and of launches."""
    for steps, limit in ((16, ">= 0.9"), (4, ">= 0.85"), (128, ">= 0.85")):
        for dtype, backend in product(DTYPES, BACKENDS):
            name = f"share of copy bandwidth, T={steps}, {dtype}, {backend}"
            file = "layer.json" if steps == 16 else "layer-steps.json"
            yield Target(name, file, "bandwidth", limit, ours(backend), cases=large((steps,), (dtype,)))
    for steps, backend in product((4, 16), BACKENDS):
        name = f"a call over one that does nothing, 64 K neurons, T={steps}, {backend}"
        cases = {"steps": (steps,), "neurons": (SMALL,), "dtype": DTYPES}
        rows = tuple(f"{backend} {kept}" for kept in FORMATS)
        yield Target(name, "overhead.json", "overhead", "<= 1.2", rows, cases=cases)


def layers_beside_others() -> Iterator[Target]:
    for dtype, limits in (("float32", (1.15, 1.25, 1.4)), ("bfloat16", (1.5, 1.5, 1.75))):
        for kept, limit in zip(FORMATS, limits, strict=True):
            name = f"SpikingJelly / {kept}, {dtype}"
            rows, theirs = (f"fastlif {kept}",), tuple(f"{other} triangle" for other in FUSED)
            yield Target(name, "layer.json", "speed", f">= {limit}", rows, theirs, large((16,), (dtype,)))
    theirs = tuple(f"{other} triangle" for other in HALF)
    name = "SpikingJelly with h in bfloat16 / each format, bfloat16"
    yield Target(name, "layer.json", "speed", "> 1", ours(), theirs, large((16,), ("bfloat16",)))
    for dtype, limit in (("float32", ">= 1.5"), ("bfloat16", ">= 1.7")):
        name = f"batch norm, SpikingJelly / BatchNormLIF, {dtype}"
        cases = {"steps": (16,), "neurons": (LARGE,), "dtype": (dtype,), "layout": ("contiguous", "channels last")}
        yield Target(name, "batch_norm.json", "speed", limit, ("BatchNormLIF",), FUSED, cases)
    short = large((4, 16), DTYPES)
    long = {"steps": (128,), "neurons": (MIDDLE,), "dtype": ("float32",), "reset": ("soft",)}
    for file, cases, steps in (("layer-compile", short, "T=4, T=16"), ("layer-compile-long", long, "T=128")):
        for what, limit, kept in (("x kept", ">= 0.97", FORMATS[:1]), ("less kept", "> 1", FORMATS[1:])):
            rows = tuple(f"fastlif {name}" for name in kept)
            name = f"torch.compile / {what}, {steps}"
            yield Target(name, f"{file}.json", "speed", limit, rows, ("compile triangle",), cases)


def networks_beside_others() -> Iterator[Target]:
    for amp, most in ((None, "<= 0.5"), ("bfloat16", "<= 0.4")):
        cases = {"steps": (10,), "batch": (32,), "size": (48,), "amp": (amp,)}
        name = f"VGGSNN, {amp or 'float32'}"
        for file, rows, theirs, limit, recomputed in (
            ("network.json", "fastlif batch norm fused, bits", "spikingjelly", most, ""),
            ("network-memopt.json", "fastlif recompute", "spikingjelly memopt", "< 1", ", convolutions recomputed"),
        ):
            for quantity, bound, what in (("peak", limit, "peak memory / {}'s"), ("speed", "> 1", "{}'s step / ours")):
                full = f"{name}{recomputed}: {what.format(theirs.replace('spikingjelly', 'SpikingJelly'))}"
                yield Target(full, file, quantity, bound, (rows,), (theirs,), cases)


def ours(backend: str = "") -> tuple[str, ...]:
    """The rows of a backend, by default of the one that is chosen, in every format."""
    return tuple(" ".join(filter(None, ("fastlif", backend, kept))) for kept in FORMATS)


def large(steps: tuple[int, ...], dtypes: tuple[str, ...]) -> dict[str, tuple]:
    """Cases of 16 M neurons, each reset."""
    return {"steps": steps, "neurons": (LARGE,), "dtype": dtypes, "reset": RESETS}


def judged(folder: Path) -> list[tuple[Target | Proof, Verdict]]:
    return [(target, target.judge(folder)) for target in targets()]


def counted(verdicts: list[tuple[Target | Proof, Verdict]]) -> str:
    """How many have which outcome."""
    counts = Counter(verdict.outcome for _, verdict in verdicts)
    return f"{counts[MET]} of {len(verdicts)} {MET}, {counts[MISSED]} {MISSED}, {counts[UNKNOWN]} {UNKNOWN}"


def rows_of(verdicts: list[tuple[Target | Proof, Verdict]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| target | limit | measured | outcome | the worst of, and what is missing |", "|---|---|---|---|---|"]
    for target, found in verdicts:
        cells = (target.name, target.limit, found.measured, found.outcome, found.why.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def commits(folder: Path) -> list[str]:
    """What to say where files are of several commits."""
    files = sorted({getattr(target, "file", "summary.json") for target in targets()})
    made = {name: found["commit"] for name in files if isinstance(found := read(folder / name, "commit"), dict)}
    several = "Of several commits: " + ", ".join(f"{name} {commit}" for name, commit in made.items()) + "."
    return [several, ""] if len(set(made.values())) > 1 else []


def write(folder: Path) -> str:
    """Write targets.md of a results folder; returns it."""
    verdicts = judged(folder)
    lines = ["# Targets", "", f"{counted(verdicts)}.", "", NOTE, *commits(folder), *rows_of(verdicts)]
    text = "\n".join(lines) + "\n"
    (folder / "targets.md").write_text(text)
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="results of bench/gpu.py")


def main(args: argparse.Namespace) -> int:
    if not args.folder.is_dir():
        raise SystemExit(f"no folder {args.folder}")
    print(write(args.folder))
    return 0
