"""digits: scikit-learn's 1,797 real handwritten digits, 8x8 pixels. They come with it: nothing is downloaded."""

import functools

import numpy as np
import torch
from torch.utils.data import TensorDataset

from .augment import jitter
from .encode import ENCODERS, choose
from .outside import library
from .parts import Data


def digits(encode: str = "direct") -> Data:
    """1,257 training, 180 validation, 360 test images [1, 8, 8] in [0, 1]. The parts are fixed, classes in proportion.

    Args:
        encode: "direct" or "poisson".

    Raises:
        ModuleNotFoundError: scikit-learn is missing; the message says how to get it.
    """
    encode = ENCODERS[choose(encode)]
    pixels, labels, parts = read()
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(labels)
    train, validation, test = (TensorDataset(images[part], labels[part]) for part in parts)
    return Data("digits", 10, (1, 8, 8), train, validation, test, augment=jitter, encode=encode)


def read() -> tuple[np.ndarray, np.ndarray, tuple[list[int], list[int], list[int]]]:
    """Pixels [1797, 64] from 0 to 16, labels [1797], and the positions of the three parts."""
    datasets = library("sklearn.datasets", "the digits come with scikit-learn", "train")
    selection = library("sklearn.model_selection", "the digits come with scikit-learn", "train")
    pixels, labels = datasets.load_digits(return_X_y=True)
    take = functools.partial(selection.train_test_split, random_state=0)
    rest, test = take(range(len(labels)), test_size=360, stratify=labels)
    train, validation = take(rest, test_size=180, stratify=labels[rest])
    return pixels, labels, (train, validation, test)
