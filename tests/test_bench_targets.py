"""The targets: met only by rows that are there, on the right side of the limit; and each is measured by a step."""

import json
from itertools import product
from pathlib import Path

import pytest

from bench import batch_norm, choose, contenders, gpu_steps, layer, network, overhead, readme, targets, verdict
from bench.__main__ import parser_and_parts
from bench.network import Network
from bench.verdict import MET, MISSED, UNKNOWN, Proof, Target

ALL = list(targets.targets())
RATIOS = [target for target in ALL if isinstance(target, Target)]
PROOFS = [target for target in ALL if isinstance(target, Proof)]
H200 = {"name": "NVIDIA H200", "capability": "9.0"}


def row(case, name, seconds=1.0):
    """A row that has every figure."""
    figures = {key: {"median": seconds} for key in ("both", "call", "empty")}
    figures |= {"moved_bytes": 20, "peak_bytes": 10 * seconds}
    return {"case": case | {"device": "cuda"}, "contender": name, "status": "ok"} | figures


def cases_of(target):
    return [dict(zip(target.cases, values, strict=True)) for values in product(*target.cases.values())]


def good(target):
    """The rows of its file that meet it by far: others take ten times ours, and copies as long."""
    rows = []
    for case in cases_of(target):
        rows += [row(case, "copy")] + [row(case, name) for name in target.ours]
        rows += [row(case, name, 10.0) for name in target.theirs]
    return rows


def judge(target, rows, folder):
    (folder / target.file).write_text(json.dumps({"rows": rows, "commit": "1"}))
    return target.judge(folder)


def scaled(target, rows, factor):
    """With ours so many times what they were, in time and memory."""
    times = {name: {"median": factor} for name in ("both", "call")}
    own = times | {"peak_bytes": 10 * factor}
    return [r | own if r["contender"] in target.ours else r for r in rows]


def at(target, value):
    """What `scaled` takes to make the figure this value."""
    return {"speed": 10 / value, "bandwidth": 1 / value, "peak": 10 * value, "overhead": value}[target.quantity]


@pytest.mark.parametrize("target", RATIOS, ids=lambda t: t.name)
def test_each_side_of_the_limit(target, tmp_path):
    rows, (sign, limit) = good(target), target.limit.split()
    assert judge(target, rows, tmp_path).outcome == MET
    inside = 1 + 1e-6 if sign.startswith(">") else 1 - 1e-6
    for value, outcome in ((float(limit) * inside, MET), (float(limit) / inside, MISSED)):
        found = judge(target, scaled(target, rows, at(target, value)), tmp_path)
        assert (found.outcome, found.measured) == (outcome, f"{value:.3f}")
    last = [r for r in rows if r["contender"] in target.ours][-1]
    slow = scaled(target, [last], at(target, float(limit) / inside))  # one of them is enough
    found = judge(target, [slow[0] if r is last else r for r in rows], tmp_path)
    assert (found.outcome == MISSED and last["contender"] in found.why) or len(rows) == 3


@pytest.mark.parametrize("target", RATIOS, ids=lambda t: t.name)
def test_what_is_missing_is_not_met(target, tmp_path):
    assert target.judge(tmp_path).outcome == UNKNOWN and target.file in target.judge(tmp_path).why
    rows = good(target)
    for index, gone in enumerate(rows):
        rest = rows[:index] + rows[index + 1 :]
        found = judge(target, rest, tmp_path)
        name = gone["contender"]
        if name == "copy" and target.quantity != "bandwidth":
            assert found.outcome == MET
        elif name in target.theirs and len(target.theirs) > 1:  # the other one is there
            assert (
                found.outcome == MET and f"without {name}: no row" in found.why and f"without {name}" in found.measured
            )
        else:
            assert found.outcome == UNKNOWN and found.why
    others = target.theirs or (("copy",) if target.quantity == "bandwidth" else ())
    if others:
        found = judge(target, [r for r in rows if r["contender"] not in others], tmp_path)
        assert found.outcome == UNKNOWN and not found.measured
    assert judge(target, [r | {"case": r["case"] | {"device": "cpu"}} for r in rows], tmp_path).outcome == UNKNOWN
    assert judge(target, rows + rows, tmp_path).outcome == UNKNOWN
    for text in ("", "{}"):
        (tmp_path / target.file).write_text(text)
        assert target.judge(tmp_path).outcome == UNKNOWN


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("failed", MISSED), ("refused", MISSED), ("not run", UNKNOWN), ("not available", UNKNOWN), ("missing", UNKNOWN)],
)
def test_rows_without_figures(status, outcome, tmp_path):
    """Ours that failed is a target missed; theirs leaves nothing to compare with."""
    bad = {"status": status, "reason": "out of memory"}
    for target in (t for t in RATIOS if t.quantity in ("speed", "peak")):
        rows = good(target)
        for names, expected in ((target.ours, outcome), (target.theirs, UNKNOWN)):
            broken = [{k: r[k] for k in ("case", "contender")} | bad if r["contender"] in names else r for r in rows]
            found = judge(target, broken, tmp_path)
            assert found.outcome == expected and "out of memory" in found.why
    for target in RATIOS:
        rows = [{k: v for k, v in r.items() if k != verdict.KEYS[target.quantity]} for r in good(target)]
        assert judge(target, rows, tmp_path).outcome == UNKNOWN


def summary(folder, **steps):
    (folder / "summary.json").write_text(json.dumps({"steps": steps}))


def counted(test, passed=1, failed=0, places=("cuda-cuda", "cuda-triton")):
    return [{"test": test, "place": place, "passed": passed, "failed": failed, "skipped": 1} for place in places]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda p: p.name)
def test_proofs(proof, tmp_path):
    test = proof.test or "test_some"
    assert proof.judge(tmp_path).outcome == UNKNOWN
    tested = {"tests": counted(test)} if "tests" in proof.steps[0] else {}
    steps = {name: {"status": "ok", "said": "", **tested} for name in proof.steps}
    summary(tmp_path, **steps)
    assert proof.judge(tmp_path).outcome == MET
    *rest, last = proof.steps
    for status, outcome in (("stopped", UNKNOWN), ("failed", MET if proof.test else MISSED)):
        summary(tmp_path, **steps | {last: steps[last] | {"status": status}})
        assert proof.judge(tmp_path).outcome == outcome
    summary(tmp_path, **steps | {last: steps[last] | {"commit": "another"}})
    found = proof.judge(tmp_path)
    assert found.outcome == UNKNOWN and "of commit another" in found.why
    if proof.test:
        for tests, outcome in (
            (counted(test, 0), UNKNOWN),
            (counted(test, 3, 1), MISSED),
            (counted(test, 3, places=("cuda-cuda",)), UNKNOWN),
            (counted("test_other"), UNKNOWN),
        ):
            summary(tmp_path, **{last: {"status": "ok", "said": "", "tests": tests}})
            assert proof.judge(tmp_path).outcome == outcome
        return
    for status, outcome in (("failed", MISSED), ("stopped", UNKNOWN), ("not run", UNKNOWN), ("skipped", UNKNOWN)):
        summary(tmp_path, **steps | {last: {"status": status, "said": "why"}})
        found = proof.judge(tmp_path)
        assert found.outcome == outcome and f"{last} {status}: why" in found.why
    summary(tmp_path, **{name: steps[name] for name in rest})
    assert proof.judge(tmp_path).outcome == UNKNOWN
    if tested:
        summary(tmp_path, **steps | {last: {"status": "ok", "said": "", "tests": counted(test, 0)}})
        assert proof.judge(tmp_path).outcome == UNKNOWN


def measured(step):
    """The cases of a step's command, and the names of its rows, as they are on a GPU."""
    parser, _ = parser_and_parts()
    args = parser.parse_args(step.command[3:])
    if args.command == "layer":
        rows = [row.name for row in contenders.select("cuda", args.contenders, args.without)]
        return [case.as_dict() for case in layer.cases(args, "cuda")], rows
    if args.command == "overhead":
        rows = [f"{backend} {kept}" for backend in ("cuda", "triton") for kept in overhead.ours.FORMATS]
        return [case.as_dict() for case in overhead.cases(args, "cuda")], rows
    if args.command == "batch_norm":
        steps, batch, channels, height, width = args.shape
        case = {"steps": steps, "neurons": batch * channels * height * width, "device": "cuda"}
        cases = [case | {"dtype": d, "layout": name} for d, name in product(args.dtype, batch_norm.LAYOUTS)]
        return cases, [row.name for row in batch_norm.contenders("cuda")]
    given = {"steps": args.steps or Network.steps, "batch": args.batch, "device": "cuda"}
    rows = [row.name for row in choose.choose(network.TABLE, args.contenders, args.without)]
    return [Network(**given, amp=amp).__dict__ for amp in network.training.amps(args)], rows


@pytest.mark.parametrize("file", sorted({target.file for target in RATIOS}))
def test_every_target_is_measured_by_a_step(file):
    steps = gpu_steps.steps(Path("out"), H200, None, Path("site"))
    (step,) = (step for step in steps if file in step.leaves)
    cases, rows = measured(step)
    for target in (target for target in RATIOS if target.file == file):
        for case in cases_of(target):
            assert sum(verdict.matches(c, case | {"device": "cuda"}) for c in cases) == 1, (target, case)
        assert {*target.ours, *target.theirs} <= set(rows)


def test_every_proof_has_its_steps():
    names = {step.name for step in gpu_steps.steps(Path("out"), H200, None, Path("site"))}
    assert all(set(proof.steps) <= names for proof in PROOFS)
    text = "".join(Path(path).read_text() for path in map(Path(__file__).parents[1].joinpath, gpu_steps.TESTS))
    assert all(f"def {proof.test}(" in text for proof in PROOFS if proof.test) and gpu_steps.HUGE in text


def test_the_table_of_targets(tmp_path, capsys):
    table = targets.write(tmp_path)
    assert f"0 of {len(ALL)} met, 0 NOT met, {len(ALL)} not measured." in table
    target = RATIOS[0]
    judge(target, good(target), tmp_path)
    table = targets.write(tmp_path)
    assert f"| {target.name} | {target.limit} | 1.000 | met |" in table and "1 of" in table
    assert table == (tmp_path / "targets.md").read_text()
    (tmp_path / RATIOS[-1].file).write_text(json.dumps({"rows": [], "commit": "2"}))
    assert "Of several commits: " in targets.write(tmp_path)
    parser, parts = parser_and_parts()
    args = parser.parse_args(["targets", str(tmp_path)])
    assert parts["targets"].main(args) == 0 and target.name in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no folder"):
        parts["targets"].main(parser.parse_args(["targets", str(tmp_path / "none")]))


def test_the_readme_is_made_from_the_results():
    text = readme.README.read_text()
    assert text.split(readme.BEGIN)[1].split(readme.END)[0] == readme.section(readme.RESULTS)


def test_the_readme_of_made_up_results(tmp_path):
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    assert readme.section(results) == readme.NOTHING
    folder = results / "h200"
    folder.mkdir()
    head = {"device": H200, "versions": {"torch": "2.11", "triton": None}, "commit": "0123456789abcdef", "steps": {}}
    (folder / "summary.json").write_text(json.dumps(head))
    (folder / "copy.json").write_text(json.dumps({"rows": [{"bytes_per_second": 4.25e12}]}))
    for file in ("layer.json", "network.json"):
        rows = [r for target in RATIOS if target.file == file for r in good(target)]
        unique = {json.dumps([r["case"], r["contender"]]): r for r in rows}
        (folder / file).write_text(json.dumps({"rows": list(unique.values())}))
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}old\n{readme.END}after\n")
    readme.write(results, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "NVIDIA H200 (torch 2.11; a copy moves 4.25 TB/s), commit 0123456789ab: " in text
    assert "(bench/results/h200/summary.md)" in text
    assert "| share of copy bandwidth, T=16, float32, cuda | >= 0.9 |" in text
    assert "| spikingjelly cuda triangle | 1e+04 | 10% | 1e+04 | 10% |" in text
    assert "| fastlif batch norm fused, bits | 1e+03 | 0 | 1e+03 | 0 |" in text
    readme.write(results, page)
    assert page.read_text() == text
