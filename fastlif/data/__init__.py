"""Data sets by name, with fixed training, validation and test parts, and batches of them, time first."""

import functools
import inspect

from ..surrogate import nearest
from .augment import Roll, jitter
from .batches import Batches
from .cifar10_dvs import cifar10_dvs
from .digits import digits
from .dvs_gesture import dvs_gesture
from .emnist import emnist
from .encode import direct, poisson, time_first
from .es_imagenet import tiny_es_imagenet
from .event_digits import event_digits
from .events import binary, counts
from .images import cifar10, cifar100, imagenet
from .n_caltech101 import n_caltech101
from .parts import Data, Part, labels_of, of_classes, split

DATA = {
    "digits": digits,
    "event-digits": event_digits,
    "event-digits-48": functools.partial(event_digits, scale=3),
    "emnist": emnist,
    "emnist-digits": functools.partial(emnist, split="digits"),
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "cifar10-dvs": cifar10_dvs,
    "dvs-gesture": dvs_gesture,
    "n-caltech101": n_caltech101,
    "tiny-es-imagenet": tiny_es_imagenet,
}


def load(name: str, **options) -> Data:
    """The data set called `name`, made with the options of the function that `DATA` has for it.

    Raises:
        ValueError: there is none, or it takes no such option; the message has the nearest names.
    """
    if name not in DATA:
        raise ValueError(f"unknown data {name!r}; {nearest(name, DATA)}")
    taken = inspect.signature(DATA[name]).parameters
    for option in options:
        if option not in taken:
            raise ValueError(f"data {name!r} takes no option {option!r}; {nearest(option, taken)}")
    return DATA[name](**options)


__all__ = [
    "DATA",
    "Batches",
    "Data",
    "Part",
    "Roll",
    "binary",
    "cifar10",
    "cifar10_dvs",
    "cifar100",
    "counts",
    "digits",
    "direct",
    "dvs_gesture",
    "emnist",
    "event_digits",
    "imagenet",
    "jitter",
    "labels_of",
    "load",
    "n_caltech101",
    "of_classes",
    "poisson",
    "split",
    "time_first",
    "tiny_es_imagenet",
]
