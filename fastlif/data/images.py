"""CIFAR-10, CIFAR-100 and ImageNet through torchvision, prepared and varied as TET's appendix A.1 says."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .encode import ENCODERS, choose
from .outside import folder, library, missing
from .parts import Data, Part, split

Root = str | os.PathLike | None

# Means and deviations of the training images, by channel.
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cifar10(root: Root = None, encode: str = "direct", held_out: float = 0.1) -> Data:
    """45,000 training, 5,000 validation and 10,000 test images [3, 32, 32] of 10 classes, normalised by channel.

    Training images are cropped at random from a margin of 4 black pixels, and half of them mirrored.

    Args:
        root: the folder that holds cifar-10-batches-py; $FASTLIF_DATA or ./data unless given.
        encode: "direct" or "poisson".
        held_out: the share of the 50,000 that validates, the same images always; 0 trains on all, as the paper does.

    Raises:
        FileNotFoundError: it is not there, or damaged; the message says where it was looked for and how to get it.
        ModuleNotFoundError: torchvision is missing; the message says how to get it.
        RuntimeError: torchvision is there, and was built for another torch.
    """
    return cifar("cifar10", "CIFAR10", CIFAR10, root, encode, held_out)


def cifar100(root: Root = None, encode: str = "direct", held_out: float = 0.1) -> Data:
    """As `cifar10`, with 100 classes, from cifar-100-python."""
    return cifar("cifar100", "CIFAR100", CIFAR100, root, encode, held_out)


def imagenet(root: Root = None, encode: str = "direct", held_out: float = 0.04) -> Data:
    """ImageNet's 1.28 million training and 50,000 test images [3, 224, 224] of 1,000 classes, normalised by channel.

    The test images are those of its folder val. They are resized to 256 pixels and cropped to 224; training images are
    cropped at random in place, size and shape, and half of them mirrored.

    Args:
        root: the folder that holds imagenet/train and imagenet/val, each with a folder of images for every class;
            $FASTLIF_DATA or ./data unless given.
        encode: "direct" or "poisson".
        held_out: the share of the training images that validates, by default about as many as test; the same always.

    Raises:
        FileNotFoundError, ModuleNotFoundError, RuntimeError: as `cifar10`.
        ValueError: train and val have different classes.
    """
    encode = ENCODERS[choose(encode)]
    datasets = torchvision("datasets", "imagenet")
    where = folder(root) / "imagenet"
    get = (
        "get it from image-net.org, and put the images of each class into train/CLASS and val/CLASS there "
        "(torchvision.datasets.ImageNet does so with the archives)"
    )
    try:
        train, test = (datasets.ImageFolder(where / part, loader=image) for part in ("train", "val"))
    except FileNotFoundError as error:
        raise missing("imagenet", where, get, f"is not there, or not whole ({error})") from error
    if different := set(train.classes) ^ set(test.classes):
        raise ValueError(f"the classes in {where}/train and val do not match: {', '.join(sorted(different)[:5])}, ...")
    rest, held = split(train.targets, held_out)
    v2 = torchvision("transforms.v2", "imagenet")
    plain = transform(v2, IMAGENET, v2.Resize(256), v2.CenterCrop(224))
    make = Images(plain, transform(v2, IMAGENET, v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()))
    parts = Part(train, rest, make), Part(train, held, make), Part(test, range(len(test)), make)
    return Data("imagenet", len(train.classes), (3, 224, 224), *parts, encode=encode)


def cifar(name: str, kind: str, moments: tuple, root: Root, encode: str, held_out: float) -> Data:
    """CIFAR-10 or -100, `kind` being torchvision's name for it."""
    encode = ENCODERS[choose(encode)]
    kind = getattr(torchvision("datasets", name), kind)
    where = folder(root)
    try:
        train, test = kind(where, train=True), kind(where, train=False)
    except (RuntimeError, OSError) as error:  # torchvision's error for files that are not there or have other sums
        get = f'get it with: python -c "import torchvision; torchvision.datasets.{kind.__name__}({str(where)!r}, '
        problem = f"is not there, or not whole ({error})"
        raise missing(name, where / kind.base_folder, get + 'download=True)"', problem) from error
    rest, held = split(train.targets, held_out)
    v2 = torchvision("transforms.v2", name)
    varied = transform(v2, moments, v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip())
    make = Images(transform(v2, moments), varied)
    parts = Part(train, rest, make), Part(train, held, make), Part(test, range(len(test)), make)
    return Data(name, len(train.classes), (3, 32, 32), *parts, encode=encode)


@dataclass(frozen=True)
class Images:
    """Makes images into samples, for `Part`: `plain(image)`, or `varied(image)` where there is a seed."""

    plain: Callable[[Any], torch.Tensor]
    varied: Callable[[Any], torch.Tensor]

    def __call__(self, image: Any, steps: int, seed: int | None) -> torch.Tensor:
        if seed is None:
            return self.plain(image)
        with drawing_from(seed):
            return self.varied(image)


@contextlib.contextmanager
def drawing_from(seed: int):
    """torch's own generator for CPUs, from which torchvision draws, starts from the seed and is put back afterwards."""
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(before)


def transform(v2: ModuleType, moments: tuple, *first: Callable[[Any], Any]) -> Callable[[Any], torch.Tensor]:
    """Image -> what `first` makes of it, as a tensor [3, H, W] from 0 to 1, then normalised by (means, deviations)."""
    return v2.Compose([*first, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*moments)])


def torchvision(module: str, name: str) -> ModuleType:
    """A module of torchvision, for the data set called `name`."""
    return library(f"torchvision.{module}", f"{name} is read by torchvision", "data")


def image(path: str | Path):
    """The image in a file, as RGB; OSError with the path if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error}") from error
