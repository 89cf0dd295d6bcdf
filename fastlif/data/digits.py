"""digits: scikit-learn's 1,797 real handwritten digits, 8x8 pixels. They come with it: nothing is downloaded."""

import functools

import torch
from torch.utils.data import TensorDataset

from .augment import jitter
from .parts import Data


def digits() -> Data:
    """1,257 training, 180 validation, 360 test images [1, 8, 8] in [0, 1]. The parts are fixed, classes in proportion.

    Raises:
        ModuleNotFoundError: scikit-learn is missing; the message says how to get it.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn, which is not installed here; get it with: pip install 'fastlif[train]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(labels)
    split = functools.partial(train_test_split, random_state=0)
    rest, test = split(range(len(labels)), test_size=360, stratify=labels)
    train, validation = split(rest, test_size=180, stratify=labels[rest])
    parts = (TensorDataset(images[part], labels[part]) for part in (train, validation, test))
    return Data("digits", 10, (1, 8, 8), *parts, augment=jitter)
