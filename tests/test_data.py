"""Data sets by name, their parts and batches; digits."""

import hashlib
import sys

import pytest
import torch

from fastlif import data
from fastlif.data.augment import jitter
from fastlif.data.outside import library


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def images(part):
    return torch.stack([image for image, _ in part])


def test_parts_are_fixed_and_apart(digits):
    parts = [images(part) for part in (digits.train, digits.validation, digits.test)]
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert all(part.shape[1:] == digits.shape and part.min() >= 0 and part.max() <= 1 for part in parts)
    distinct = {tuple(image.flatten().tolist()) for image in torch.cat(parts)}
    assert len(distinct) == 1797  # no image twice, so none in two parts
    labels = torch.tensor([label for _, label in digits.test])
    assert labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def test_unknown_data_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown data 'digit'.*did you mean 'digits'"):
        data.load("digit")


def test_unknown_options_name_the_nearest():
    with pytest.raises(ValueError, match=r"data 'digits' takes no option 'encoding'; allowed: 'encode'; did you mean"):
        data.load("digits", encoding="direct")
    with pytest.raises(ValueError, match=r"unknown encode 'poison'.*did you mean 'poisson'"):
        data.load("digits", encode="poison")


def test_missing_sklearn_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"scikit-learn.*pip install 'fastlif\[train\]'"):
        data.load("digits")


def test_a_library_that_needs_another_or_cannot_be_loaded_says_so(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import fastlif_no_such_library")
    (tmp_path / "built_for_another.py").write_text("raise RuntimeError('operator some::op does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"it is read by needs_more, and fastlif_no_such_library, which that"):
        library("needs_more", "it is read by needs_more", "data")
    with pytest.raises(RuntimeError, match=r"which cannot be loaded with torch .*some::op.*built for another"):
        library("built_for_another", "it is read by built_for_another", "data")


def test_training_batches_repeat_with_the_seed_and_vary_by_epoch(digits):
    def passes(seed):
        batches = data.Batches(
            digits.train, 64, 2, generator=torch.Generator().manual_seed(seed), augment=digits.augment
        )
        assert len(batches) == 1257 // 64
        return [torch.cat([x[0] for x, _ in batches]) for _ in range(2)]

    first, second = passes(3), passes(3)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], passes(4)[0])
    assert len(first[0]) == 1257 // 64 * 64  # batches are all full


def test_a_run_on_digits_can_be_repeated_with_later_versions(digits):
    generator = torch.Generator().manual_seed(0)
    batches = data.Batches.of(digits, "train", 64, 3, generator=generator)
    labels = torch.cat([y for _, y in batches])
    assert labels[:10].tolist() == [4, 0, 9, 2, 1, 0, 0, 0, 2, 6]
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16] == "dbe741c74bfbb5a2"
    assert hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()[:16] == "ce31898ef1b5b78e"


def test_batches_without_a_generator_are_the_part_in_order(digits):
    batches = data.Batches(digits.test, 100, 1, augment=digits.augment)
    assert torch.equal(torch.cat([x[0] for x, _ in batches]), images(digits.test))


def test_a_batch_larger_than_the_training_part_is_refused(digits):
    with pytest.raises(ValueError, match="batch_size must be at most 1257, the size of the training part, got 2000"):
        data.Batches(digits.train, 2000, 1, generator=torch.Generator())


def test_jitter_moves_by_at_most_what_it_says():
    spot = torch.zeros(64, 1, 9, 9)
    spot[:, :, 4, 4] = 1
    generator = torch.Generator().manual_seed(0)
    still = jitter(spot, generator, degrees=0, scale=0, shift=0)
    torch.testing.assert_close(still, spot, atol=1e-5, rtol=0)
    moved = jitter(spot, generator, degrees=0, scale=0, shift=1)
    assert moved[:, :, :2].eq(0).all() and moved[..., 7:].eq(0).all() and not torch.equal(moved[0], moved[1])
