"""The studies of local truncated BPTT and BlocTrain: their runs, what they count, and their tables and plots."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench import bloctrain, local, local_report, report
from fastlif.train import grid

RESULTS = Path(__file__).parents[1] / "bench" / "results"


@pytest.mark.parametrize("name", ["local", "bloctrain"])
def test_tables_and_plots_are_made_from_the_results(name, tmp_path):
    path = tmp_path / f"{name}.json"
    shutil.copy(RESULTS / path.name, path)
    text = report.write_report(path)
    assert text == (RESULTS / f"{name}.md").read_text() == path.with_suffix(".md").read_text()
    pictures = [line[4:-1] for line in text.splitlines() if line.startswith("![](")]
    assert pictures and all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_grids_of_the_study_can_be_trained():
    for study in local.STUDIES.values():
        config = study.config(device="cpu")
        assert config.steps == max(study.windows) and None in study.blocks
        for own, _ in local.at_points(study, config).values():
            grid.check(own)


def test_kept_memory_is_proportional_to_the_window_and_one_blocks():
    rows = {(row["n"], row["k"]): row for row in local.over_windows()}
    bptt = rows[None, 60]["kept"]
    assert rows[1, 1]["kept"] <= 0.05 * bptt
    for (n, k), row in rows.items():
        assert row["kept"] == pytest.approx(rows[n, 60]["kept"] * k / 60, rel=0.1)
        assert row["kept"] < row["paper"] or k == 1 or n is None


def test_the_best_point_is_the_least_merit():
    rows = json.loads((RESULTS / "local.json").read_text())["rows"]
    for name in local.STUDIES:
        own = [row for row in rows if row["study"] == name]
        best = grid.best(own)
        trainable = [row["merit"] for row in best.rows]
        assert {row["classifiers"] for row in best.rows} == {"trainable"} and len(trainable) == 3
        least = min(
            sum(row["merit"] for row in point) for key, point in grid.by_point(own).items() if key[0] == "trainable"
        )
        assert sum(trainable) == least
        assert local_report.point(5, None) == "k = 5, n = all"


def test_runs_of_bloctrain_differ_in_what_their_names_say():
    jobs = dict(bloctrain.jobs(2, 3))
    assert len(jobs) == 2 * 5 * 2
    for name, config in jobs.items():
        data, variant, seed = name.split("/")
        assert (config.data, config.seed, config.epochs) == (data, int(seed), 3)
        assert (config.method == "bptt") == (variant == "end to end")
        assert config.base == (variant == "BlocTrain-base") and (config.cache == "on") == (variant.endswith("cached"))


def test_a_run_of_bloctrain(tmp_path):
    name = "digits/BlocTrain/0"
    config = dict(bloctrain.jobs(1, 1))[name]
    found = bloctrain.do(name, bloctrain.replace(config, steps=2, batch_size=512, width=0.25), tmp_path)
    assert len(found["kept"]) == len(found["memory"]["blocks"]) == 3 and min(found["kept"]) > 0
    at = {one["thresholds"]["conf"]: one for one in found["exits"]}
    assert at[0.9999]["accuracy"] == pytest.approx(found["accuracy"]) and set(at) == set(bloctrain.CONFIDENCES)
    assert at[0.3]["operations"] <= at[1.0]["operations"]


def test_times_have_every_block_with_and_without_cache():
    net, whole = (bloctrain.build("bloc-small", exits=exits, width=0.25) for exits in (True, False))
    found = bloctrain.times(net, whole, torch.rand(2, 4, 1, 8, 8).round(), torch.arange(4), 1, 2)
    assert set(found) == {
        "end to end", "end to end, equal memory", "block 1", "block 2", "block 3", "block 2, cached", "block 3, cached",
    }  # fmt: skip
