"""Tables and plots of the study of BlocTrain, made from its JSON."""

import statistics
from pathlib import Path
from typing import Any

from fastlif import plot

from .ratios import share
from .results import load
from .tet_report import table

Runs = list[dict[str, Any]]
END = "end to end"


def write(path: Path) -> str:
    """Write the tables beside the JSON file, and the plots; returns the tables."""
    result = load(path)
    runs: dict[str, dict[str, Runs]] = {}
    for row in result["rows"]:
        data, variant, _ = row["name"].split("/")
        runs.setdefault(data, {}).setdefault(variant, []).append(row)
    sections = [
        "# BlocTrain against training end to end\n\n"
        f"Mean and standard deviation of {result['seeds']} seeds, {result['epochs']} epochs of each block and end to "
        f"end; `{result['command']}`, commit {result['commit'][:12]}. {result.get('note', '')}".strip(),
        accuracies(runs),
        time_and_memory(runs, result["times"]),
        exits(runs, path),
        resnet9(result["resnet9"]),
    ]
    text = "\n\n".join(sections) + "\n"
    path.with_suffix(".md").write_text(text)
    return text


def accuracies(runs: dict[str, dict[str, Runs]]) -> str:
    """Test accuracy at the confidence of training, and the classes of each block."""
    rows = []
    for data, variants in runs.items():
        for name, own in variants.items():
            cells = [data, name, share([run["accuracy"] for run in own])]
            if name == END:
                rows.append([*cells, "", "", "", ""])
                continue
            at = [last(run) for run in own]
            depth = max(len(run["classes"]) for run in own)
            known = [
                mean(len(run["classes"][n]["knows"]) for run in own if len(run["classes"]) > n) for n in range(depth)
            ]
            leaving = [mean(one["leaving"][n] if len(one["leaving"]) > n else 0 for one in at) for n in range(depth)]
            cells += [
                ", ".join(f"{value:.1f}" for value in known),
                ", ".join(f"{100 * value:.0f}" for value in leaving),
            ]
            cells += [f"{mean(one['fewer_operations'] for one in at):.2f}", f"{mean(r['parameters'] for r in own):.2f}"]
            rows.append(cells)
    heads = ["data", "", "test accuracy, %", "classes of each block", "leaving at each, %", "operations, times fewer"]
    return table(
        "Accuracy at conf = 0.9999 (mean of seeds; blocks that were added)", [*heads, "weights / end to end"], rows
    )


def time_and_memory(runs: dict[str, dict[str, Runs]], times: dict[str, Any]) -> str:
    """Time of training at equal epochs, from steps that were timed alternating, and bytes: kept, and by the paper."""
    rows = []
    for data, variants in runs.items():
        seconds = {name: own["median"] for name, own in times[data]["steps"].items()}
        kept_whole, whole = variants[END][0]["kept"][0], seconds[END]
        for name, own in variants.items():
            if name == END:
                continue
            epochs, paper = own[0]["config"]["epochs"], own[0]["memory"]
            blocks = range(len(own[0]["kept"]))
            share = [mean(samples(run, n) for run in own) for n in blocks]
            steps = [seconds[f"block {n + 1}"] for n in blocks]
            if "cached" in name:  # filled once, with what a plain step takes more
                cached = [seconds.get(f"block {n + 1}, cached", steps[n]) for n in blocks]
                steps = [c + (s - c) / epochs for s, c in zip(steps, cached, strict=True)]
            each = [f"{s * part / whole:.2f}" for s, part in zip(steps, share, strict=True)]
            total = sum(s * part for s, part in zip(steps, share, strict=True)) / whole
            kept = [f"{kept_whole / found:.2f}" for found in own[0]["kept"]]
            counted = [f"{paper['end to end'] / found:.2f}" for found in paper["blocks"]]
            rows.append([data, name, *map(", ".join, (each,)), f"{total:.2f}", *map(", ".join, (kept, counted))])
    heads = ["data", "", "epoch of each block / end to end's", "all blocks", "kept: end to end / block"]
    title = "Time of training at equal epochs, and memory of each block"
    note = (
        "Times from training steps on one batch, alternating in one process, times the share of samples that a block "
        "is trained on (mean of the seeds; 0 for blocks that were not added)."
    )
    return table(title, [*heads, "the paper's count: end to end / block"], rows) + f"\n\n{note}"


def samples(run: dict[str, Any], number: int) -> float:
    """The share of the training samples that block `number` is trained on, classes being of about equal size."""
    return len(run["classes"][number]["knows"]) / 10 if number < len(run["classes"]) else 0.0


def exits(runs: dict[str, dict[str, Runs]], path: Path) -> str:
    """Accuracy, operations and memory of an inference by confidence (figures 6, 7 and 10)."""
    rows, panels = [], []
    for data, variants in runs.items():
        end, series = mean(run["accuracy"] for run in variants[END]), {}
        for name in ("BlocTrain", "BlocTrain-base"):
            own, points = variants[name], []
            for place, first in enumerate(own[0]["exits"]):
                at = [run["exits"][place] for run in own]
                right, fewer = mean(one["accuracy"] for one in at), mean(one["fewer_operations"] for one in at)
                points.append((fewer, right))
                if name == "BlocTrain":
                    cells = [data, f"{first['thresholds']['conf']:g}", share([one["accuracy"] for one in at])]
                    cells += [f"{100 * (right - end):+.2f}", f"{100 * (right - mean(r['accuracy'] for r in own)):+.2f}"]
                    rows.append([*cells, f"{fewer:.2f}", f"{mean(one['memory_overhead'] for one in at):.2f}"])
            series[name] = (*zip(*sorted(points), strict=True), None)
        series[END] = ([1.0], [end], None)
        labels = {"xlabel": "synaptic operations, times fewer than end to end", "ylabel": "test accuracy"}
        panels.append({"series": series, "title": data, **labels})
    plot.panels(panels, path.with_name("bloctrain-exits.png"))
    heads = ["data", "conf", "accuracy, %", "over end to end, points", "over conf = 0.9999", "operations, times fewer"]
    text = table("BlocTrain: leaving early", [*heads, "memory / end to end"], rows)
    return text + "\n\n![](bloctrain-exits.png)"


def resnet9(found: dict[str, Any]) -> str:
    """Memory and time of each block of ResNet-9 over end to end (figure 11)."""
    times = {name: own["median"] for name, own in found["times"].items()}
    whole = times[END]
    rows = []
    for number, kept in enumerate(found["kept"]):
        paper = [memory[1] / memory[0][number] for memory in found["paper"].values()]
        name = f"block {number + 1}"
        cells = [name, *(f"{value:.2f}" for value in paper), f"{found['kept_end_to_end'] / kept:.2f}"]
        cached = times.get(f"{name}, cached", times[name])
        rows.append([*cells, f"{times[name] / whole:.2f}", f"{cached / whole:.2f}"])
    heads = ["end to end over", *(f"paper's count, T=100, B={size}" for size in found["paper"]), "kept"]
    heads += ["step / end to end's", "step, cached / end to end's"]
    plain = [times[f"block {n + 1}"] for n in range(len(found["kept"]))]
    cached = [times.get(f"block {n + 1}, cached", plain[n]) for n in range(len(plain))]
    sums = sum(plain) / whole, sum(cached) / whole
    smaller = times[f"{END}, equal memory"] / whole * found["batch"] / found["smaller_batch"]
    note = (
        f"All blocks, all classes in each: {sums[0]:.2f} of end to end's time, cached {sums[1]:.2f} (the paper 1.13). "
        f"End to end with the memory of the largest block has batches of {found['smaller_batch']} in the place of "
        f"{found['batch']} and takes {smaller:.2f} of its time for as many samples."
    )
    title = f"ResNet-9, input of CIFAR-10's shape, measured at T = {found['steps']}, batches of {found['batch']}"
    return table(title, heads, rows) + f"\n\n{note}"


def last(run: dict[str, Any]) -> dict[str, Any]:
    """What its exits do at the confidence of training."""
    return next(one for one in run["exits"] if one["thresholds"]["conf"] == run["config"]["conf"])


def mean(values) -> float:
    return statistics.mean(values)
