"""Several processes: each has its share of every batch, and together they learn what one learns."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fastlif import data
from fastlif.train import checkpoint


@pytest.mark.parametrize("name", ["digits", "event-digits"])  # in memory; a Part, read apart
@pytest.mark.parametrize("part", ["train", "validation"])
def test_shares_are_the_samples_of_one_process(name, part):
    dataset, shuffled = data.load(name), part == "train"

    def of(rank, ranks):
        generator = torch.Generator().manual_seed(3) if shuffled else None
        return list(data.Batches.of(dataset, part, 6, 2, "cpu", generator, share=(rank, ranks)))[:4]

    whole, shares = of(0, 1), [of(rank, 3) for rank in range(3)]
    for number, (x, y) in enumerate(whole):
        for rank in range(3):
            own, labels = shares[rank][number]
            assert torch.equal(own, x[:, rank::3]) and torch.equal(labels, y[rank::3]) and len(labels) == 2


@pytest.mark.parametrize("name", ["digits", "event-digits"])
def test_shares_cover_what_is_evaluated_once(name):
    dataset = data.load(name)  # 180 samples in batches of 14: an odd rest
    found = [list(data.Batches.of(dataset, "validation", 14, 1, share=(rank, 2))) for rank in range(2)]
    labels = torch.cat([y for share in found for _, y in share])
    assert len(labels) == 180 and all(len(y) for share in found for _, y in share)
    whole = torch.cat([y for _, y in data.Batches.of(dataset, "validation", 14, 1)])
    assert torch.equal(labels.bincount(), whole.bincount())


def test_all_processes_have_as_many_batches():
    dataset = data.load("event-digits")  # 1,257 = 20 * 60 + 57: the remainder sits out in all of them
    counts = [
        len(list(data.Batches.of(dataset, "train", 60, 1, "cpu", torch.Generator(), share=(r, 4)))) for r in range(4)
    ]
    assert counts == [20] * 4
    with pytest.raises(ValueError, match="batch_size must be a multiple of 4, the number of processes, got 6"):
        data.Batches.of(dataset, "train", 6, 1, share=(0, 4))


def test_poisson_spikes_of_processes_differ():
    dataset = data.Data("ones", 2, (8,), *[data.Part([(torch.ones(8) / 2, 0)] * 4, range(4), lambda raw, *_: raw)] * 3)
    found = [next(iter(data.Batches(dataset.test, 4, 9, encode=data.poisson, share=(r, 2))))[0] for r in range(2)]
    assert not torch.equal(*found)


def train(out, *options, processes=1):
    """fastlif train, by torchrun where there are several processes."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, "-m", "fastlif", "train", "--no-compare", "--device", "cpu", *options]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done


BPTT = "--batch-norm-lif --steps 2"
LOCAL = "--method local-bptt --model lenet1 --window 2 --block 1 --loss mse --steps 4"


BLOCS = "--method bloctrain --model bloc-small --width 0.5 --hardness 1 --steps 3 --finetune-lr 0.1"


@pytest.mark.parametrize("method", [BPTT, LOCAL, BLOCS], ids=["bptt", "local-bptt", "bloctrain"])
def test_two_processes_learn_what_one_learns(tmp_path, method):
    options = f"{method} --epochs 1 --batch-size 512 --optimizer sgd --lr 0.1 --lr-decay constant"
    train(tmp_path / "one", *options.split())
    train(tmp_path / "two", *options.split(), processes=2)
    one, two = (checkpoint.read(tmp_path / name / "fastlif.pt")["weights"] for name in ("one", "two"))
    assert one.pop("_extra_state", None) == two.pop("_extra_state", None)
    for name, value in one.items():
        assert (value.double() - two[name].double()).norm() <= 1e-5 * value.double().norm(), name
    lines = [(tmp_path / name / "fastlif.jsonl").read_text().splitlines() for name in ("one", "two")]
    lines = [json.loads(last) for *_, last in lines]
    assert lines[1]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert all(lines[1][name] == lines[0][name] for name in ("accuracy", "validation_accuracy"))
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert [found["machine"]["processes"] for found in reports] == [1, 2]
    assert reports[0]["runs"]["fastlif"]["test_accuracy"] == reports[1]["runs"]["fastlif"]["test_accuracy"]


SCRIPT = """
import os, sys
from pathlib import Path
from fastlif.train import Bptt, Config, distributed, run

out, dies, step, calls = Path(sys.argv[1]), sys.argv[2] == "dies", Bptt.step, []

def dying(self, x, y):
    calls.append(1)
    if dies and len(calls) == 4 and distributed.rank() == 1:  # in the second of three epochs of 2 batches
        os._exit(7)
    return step(self, x, y)

Bptt.step = dying
config = Config(steps=1, epochs=3, batch_size=512, device="cpu")
with distributed.joined(config.torch_device()):
    run.train(config, out=out, resume=True)
"""


def test_a_process_that_dies_ends_the_run_and_spares_the_checkpoint(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

    def go(name, *arguments):
        (tmp_path / name).mkdir(exist_ok=True)
        command = [*start, str(tmp_path / "script.py"), str(tmp_path / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    whole, broken = go("whole", "lives"), go("broken", "dies")
    assert whole.returncode == 0 and "take the statistics of each process alone" in whole.stderr
    assert broken.returncode != 0 and "exitcode  : 7" in broken.stderr
    assert len(checkpoint.read(tmp_path / "broken" / "fastlif.checkpoint.pt")["epochs"]) == 1
    assert go("broken", "lives").returncode == 0
    one, other = (checkpoint.read(tmp_path / name / "fastlif.pt")["weights"] for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
