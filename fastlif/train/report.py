"""What `fastlif train` leaves behind: a folder with weights, a report as JSON, a table in the terminal and a plot."""

import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import plot
from ..data.outside import library
from ..plot.style import LABELS
from . import build, compare, distributed, measure
from .build import LAYERS
from .config import Config
from .run import in_fresh_process
from .run import train as train_once

ALONE = "local-bptt", "bloctrain"  # naive layers carry no membrane from window to window, and have no leaky integrator


def train(
    config: Config, out: Path | None = None, compared: bool = True, resume: bool = False, tensorboard: bool = False
) -> Path:
    """Train with fastlif's layers, before that with their naive twin if `compared`; write the report, return its place.

    As one of torchrun's processes it trains in this process, which the others share, and the first one reports.

    Args:
        config: all options of the training.
        out: the folder; by default a new one, runs/<data>-<model>, or with a number behind it.
        compared: also train the naive twin from the same seed, and compare; not under torchrun.
        resume: continue what was interrupted in `out`, with the same options, from the last whole epoch.
        tensorboard: write the epochs for TensorBoard too.
    """
    if resume and out is None:
        raise ValueError("resume needs the folder of the run to continue: give out")
    compared = compared and config.method not in ALONE
    kinds = tuple(LAYERS) if compared and not distributed.launched() else ("fastlif",)
    with distributed.joined(config.torch_device()):
        check(config, tensorboard)
        first = distributed.rank() == 0
        out = new_folder(Path("runs") / f"{config.data}-{config.model}") if out is None else out
        out = distributed.agreed(out)
        if first:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()  # or the OSError that writing weights there would end in
        report: dict[str, Any] = {
            "command": shlex.join(["fastlif", *sys.argv[1:]]),
            "config": asdict(config),
            "machine": measure.machine(config.torch_device()) | {"processes": distributed.size()},
            "runs": {},
        }
        run_in = in_fresh_process if distributed.size() == 1 else lambda function, *args: function(*args)
        for layers in kinds:
            report["runs"][layers] = asdict(run_in(train_once, config, layers, out, resume, tensorboard))
    if not first:
        return out
    for layers in kinds:
        report["runs"][layers]["kept"] = asdict(compare.kept(config, layers))
    for layers, ms in in_fresh_process(compare.step_ms, config, kinds).items():
        report["runs"][layers]["step_ms"] = ms
    if len(kinds) > 1 and config.sigmoid is None:
        trained = torch.load(out / "fastlif.pt", weights_only=True)["weights"]
        report["gradients"] = asdict(compare.gradients(config, trained))
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    plot.report(report, out / "report.png")
    print(
        f"\n{table(report)}\n\nplot     {out / 'report.png'}\nreport   {out / 'report.json'}\nnetwork  {out}/fastlif.pt"
    )
    return out


def check(config: Config, tensorboard: bool = False) -> None:
    """Raise what would go wrong later on: missing libraries or data, a batch or network that does not fit the data, a
    neuron that cannot be trained so."""
    for module, extra in {"matplotlib": "train", "tqdm": "train", "tensorboard": "tensorboard"}.items():
        if module != "tensorboard" or tensorboard:
            library(module, f"training needs {module}", extra)
    net, (x, y) = compare.begin(config, "fastlif")
    phase = config.phases[0]
    build.method(config, net, phase, 1).step(x[: phase.steps], y)


def new_folder(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that is not there yet."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def table(report: dict[str, Any]) -> str:
    """The report for the terminal."""
    runs = list(report["runs"].values())

    def times(values: list[float], word: str) -> str:
        return f"{values[0] / values[1]:.2f} times {word}" if len(values) == 2 and values[1] > 0 else ""

    def row(name, show, get, word=""):
        values = [get(run) for run in runs]
        return [name, *map(show, values), times(values, word) if word else ""]

    rows = [
        ["", *(LABELS[run["layers"]] for run in runs), ""],
        row("test accuracy", lambda a: f"{a:.2%}", lambda run: run["test_accuracy"]),
        row("time per step (median)", lambda ms: f"{ms:.1f} ms", lambda run: run["step_ms"], "faster"),
        row("kept for backward", size, lambda run: run["kept"]["total"], "less"),
        row("  per neuron and step", lambda b: f"{b:.2f} bytes", lambda run: run["kept"]["per_neuron_step"]),
        row("peak memory", size, lambda run: run["peak_memory"], "less"),
        row("  above its start", size, lambda run: run["peak_memory"] - run["memory_before"], "less"),
    ]
    if "gradients" in report:
        relative = report["gradients"]["relative"]
        comment = "of the largest gradient" if relative else "equal bit for bit"
        rows.append(["largest gradient difference", "", f"{relative:.1e}" if relative else "0", comment])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *values, last in rows:
        cells = [first.ljust(widths[0]), *(v.rjust(w) for v, w in zip(values, widths[1:-1], strict=True)), last]
        lines.append("  ".join(cells))
    lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(line.rstrip() for line in lines)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB"
