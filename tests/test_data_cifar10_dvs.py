"""CIFAR10-DVS, from small AEDAT 4 files that the tests write."""

import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from fastlif import data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LENGTH = 100_000  # of a recording in microseconds

try:
    import aedat
    import tonic.io
except ModuleNotFoundError as error:
    reason = f"{error.name} is not installed"
else:
    reason = ""
with_tonic = pytest.mark.skipif(bool(reason), reason=reason)


def flatbuffer(kind, table, content):
    """A size-prefixed FlatBuffer of one table at byte 20, whose fields begin where `table`, its vtable, says."""
    assert len(table) <= 12
    body = struct.pack("<I4s", 20, kind) + table.ljust(12, b"\0") + struct.pack("<i", 12) + content
    return struct.pack("<I", len(body)) + body


def header():
    """Compression none, the place of the data table unknown, and the description of one stream of events, number 0."""
    root = "/mainloop/Recorder/outInfo/"
    text = (
        f'<dv version="2.0"><node name="outInfo" path="{root}"><node name="0" path="{root}0/">'
        '<attr key="typeIdentifier" type="string">EVTS</attr>'
        f'<node name="info" path="{root}0/info/"><attr key="sizeX" type="int">128</attr>'
        '<attr key="sizeY" type="int">128</attr></node></node></node></dv>'
    ).encode()
    vtable = struct.pack("<5H", 10, 20, 4, 12, 8)
    return flatbuffer(b"IOHE", vtable, struct.pack("<iIqI", 0, 12, -1, len(text)) + text + b"\0")


def packet(events):
    """Stream 0, length, and a FlatBuffer of a vector of events (t int64, x int16, y int16, on bool), aligned to 8."""
    stored = np.zeros(len(events), dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?"), ("", "V3")])
    for name in ("t", "x", "y", "p"):
        stored[name] = events[name]
    vector = struct.pack("<I", 4) + struct.pack("<I", len(events)) + stored.tobytes()
    body = flatbuffer(b"EVTS", struct.pack("<3H", 6, 8, 4), vector)
    return struct.pack("<II", 0, len(body)) + body


def some_events(seed, number=3000):
    draw = np.random.RandomState(seed)
    events = np.empty(number, dtype=[("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "?")])
    events["t"] = np.sort(np.concatenate([[0, LENGTH - 1], draw.randint(0, LENGTH, number - 2)])) + 40_000
    events["x"], events["y"], events["p"] = (draw.randint(0, n, number) for n in (128, 128, 2))
    return events


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with 20 recordings of each class."""
    root = tmp_path_factory.mktemp("dvs")
    for label, name in enumerate(CLASSES):
        folder = root / "CIFAR10DVS" / name
        folder.mkdir(parents=True)
        for i in range(20):
            events = some_events(20 * label + i)
            content = b"#!AER-DAT4.0\r\n" + header() + packet(events[:2000]) + packet(events[2000:])
            (folder / f"cifar10_{name}_{i}.aedat4").write_bytes(content)
    return root


@pytest.fixture
def root(everything, tmp_path):
    """The same folder, of links that a test may change."""
    for path in everything.rglob("*.aedat4"):
        link = tmp_path / path.relative_to(everything)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return tmp_path


def number(part, index):
    """Which recording it is, in the order of the classes and of the numbers in the names."""
    source = part.source
    _, name, i = source.files[part.indices[index]].stem.split("_")
    return 20 * CLASSES.index(name) + int(i)


def naive_counts(events, steps):
    """[T, 2, 128, 128]."""
    frames = torch.zeros(steps, 2, 128, 128)
    for t, x, y, p in events.tolist():
        frames[(t - 40_000) * steps // LENGTH, int(p), y, x] += 1
    return frames


@with_tonic
def test_files_are_as_tonic_reads_them(everything):
    path = everything / "CIFAR10DVS" / "cat" / "cifar10_cat_4.aedat4"
    assert tonic.io.read_aedat4(str(path)).tolist() == some_events(64).tolist()
    assert aedat.Decoder(str(path)).id_to_stream()[0]["type"] == "events"


@with_tonic
def test_a_tenth_tests_and_a_tenth_of_the_rest_validates(everything):
    found = data.load("cifar10-dvs", root=everything)
    assert (found.name, found.classes, found.shape) == ("cifar10-dvs", 10, (2, 48, 48))
    parts = {name: getattr(found, name) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 160, "validation": 20, "test": 20}
    for part in parts.values():
        assert np.bincount([part.source.labels[index] for index in part.indices]).tolist() == [len(part) // 10] * 10
    assert sorted(index for part in parts.values() for index in part.indices) == list(range(200))
    assert data.load("cifar10-dvs", root=everything).test.indices == found.test.indices
    all_of_them = data.load("cifar10-dvs", root=everything, held_out=0)
    assert all_of_them.test.indices == found.test.indices
    assert len(all_of_them.train) == 180 and len(all_of_them.validation) == 0


@with_tonic
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_counts_of_equal_parts_at_48_pixels(everything, steps):
    found = data.load("cifar10-dvs", root=everything)
    x, y = next(iter(data.Batches.of(found, "test", 3, steps)))
    assert x.shape == (steps, 3, 2, 48, 48)
    for i in range(3):
        recording = number(found.test, i)
        wanted = naive_counts(some_events(recording), steps)
        assert y[i] == recording // 20
        torch.testing.assert_close(x[:, i].mean(), wanted.mean(), rtol=0.05, atol=0)  # the mean is kept
        whole = data.load("cifar10-dvs", root=everything, size=128)
        assert torch.equal(whole.test.at(steps)[i][0], wanted)


@with_tonic
def test_binary_frames_of_a_fixed_period(everything):
    found = data.load("cifar10-dvs", root=everything, encode="binary", period=10_000, size=128)
    small = data.load("cifar10-dvs", root=everything, encode="binary", period=10_000, size=32)
    wanted = naive_counts(some_events(number(found.test, 0)), 10).clamp(max=1)
    assert torch.equal(found.test.at(10)[0][0], wanted) and torch.equal(found.test.at(4)[0][0], wanted[:4])
    pooled = wanted.view(10, 2, 32, 4, 32, 4).amax((3, 5))
    assert torch.equal(small.test.at(10)[0][0], pooled) and small.shape == (2, 32, 32)


@with_tonic
@pytest.mark.parametrize("workers", [0, 2])
def test_training_frames_are_rolled_by_up_to_5_pixels_and_mirrored(everything, workers):
    found = data.load("cifar10-dvs", root=everything)

    def first(workers):
        generator = torch.Generator().manual_seed(0)
        return next(iter(data.Batches.of(found, "train", 40, 3, "cpu", generator, workers=workers)))

    x, y = first(workers)
    again, labels = first(0)
    assert torch.equal(x, again) and torch.equal(y, labels)
    plain = {index: found.train.at(3)[index][0] for index in range(len(found.train))}
    own = next(i for i, each in plain.items() if torch.equal(each.sum((0, 2, 3)), x[:, 0].sum((0, 2, 3))))
    ways = [
        (down, right, flip)
        for down in range(-5, 6)
        for right in range(-5, 6)
        for flip in (False, True)
        if torch.equal((plain[own].flip(-1) if flip else plain[own]).roll((down, right), (-2, -1)), x[:, 0])
    ]
    assert len(ways) == 1
    copy = pickle.loads(pickle.dumps(found.train.at(3)))  # as workers get it that are not forked
    assert torch.equal(copy[own][0], plain[own])


@with_tonic
def test_data_that_is_not_there_or_not_whole_says_where_it_was_looked_for(root, tmp_path):
    where = rf"looked for in {tmp_path}/CIFAR10DVS .*get it with.*tonic.datasets.CIFAR10DVS\('{tmp_path}'\)"
    extra = next((root / "CIFAR10DVS" / "truck").iterdir())
    extra.unlink()
    with pytest.raises(FileNotFoundError, match=rf"cifar10-dvs is not whole .*ship 20, truck 19\): {where}"):
        data.load("cifar10-dvs", root=root)
    for path in (root / "CIFAR10DVS").rglob("*.aedat4"):
        path.unlink()
    before = sorted(root.rglob("*"))
    with pytest.raises(FileNotFoundError, match=rf"cifar10-dvs is not there: {where}"):
        data.load("cifar10-dvs", root=root)
    assert sorted(root.rglob("*")) == before  # nothing was downloaded


@with_tonic
@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_cannot_be_read_is_named(root, workers):
    found = data.load("cifar10-dvs", root=root)
    path = found.test.source.files[found.test.indices[4]]
    path.unlink()
    path.write_bytes(b"not a recording")
    with pytest.raises(OSError, match=rf"{path.name} cannot be read: "):
        list(data.Batches.of(found, "test", 4, 2, workers=workers))


@pytest.mark.parametrize("module", ["tonic", "importRosbag", "aedat"])
def test_missing_libraries_say_how_to_get_them(module, monkeypatch):
    if reason and module != "tonic":
        pytest.skip(reason)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tonic", module)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    which = "which is" if module != "importRosbag" else "and importRosbag, which that needs, is"
    by = "aedat" if module == "aedat" else "tonic"
    wanted = rf"cifar10-dvs is read by {by}, {which} not installed here; .*pip install 'fastlif\[data\]'"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        data.load("cifar10-dvs")


def test_options_that_make_no_sense_are_refused():
    for option in ("size", "period"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
            data.load("cifar10-dvs", **{option: 0})
    with pytest.raises(ValueError, match=r"unknown encode 'direct'; allowed: 'counts', 'binary'"):
        data.load("cifar10-dvs", encode="direct")
