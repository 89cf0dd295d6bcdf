"""Fresh memory is full of NaN in every test, so that an output which a kernel leaves unwritten shows; and what takes
long to build is built once."""

import os

import hypothesis
import pytest
import torch
from filelock import FileLock

hypothesis.settings.register_profile("fastlif", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("fastlif")


def poison(tensor):
    """Fill a fresh tensor with NaN, or with 255 where it holds bytes."""
    with torch.no_grad():
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(255)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What fastlif's operators allocate is full of NaN."""
    torch.manual_seed(0)
    for name in ("new_empty", "new_empty_strided"):
        allocate = getattr(torch.Tensor, name)

        def poisoned(self, *args, allocate=allocate, **kwargs):
            return poison(allocate(self, *args, **kwargs))

        monkeypatch.setattr(torch.Tensor, name, poisoned)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """built(name, make): the folder `name` that make(folder) has filled, once for all processes of a test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def built(name, make):
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return built
