"""Recipes: the settings of published experiments by name, as options of `Config`.

tet/... are those of Deng et al. 2022: neurons of sections 3.1 and 3.2, lam of 5.2, the rest of A.1. What the text
leaves open is chosen: batches of 128; cosine decay in the last phase of time inheritance too, which goes from the first
T to the last at once; no weight decay where none is given, nor label smoothing. As in the paper no training samples are
held out (`--held-out 0.1` does). tet/digits and tet/event-digits are small ones of our own. `--method bptt` makes of
any of them its standard direct training, in the same phases.

local/... are those of local truncated BPTT: losses, optimizers, epochs and the halving of the learning rate of section
3.1, T of 3.3 and 3.4, batches of figures 6 and 7 (those of n-caltech101 and tiny-es-imagenet are chosen), (k, n) by
what sections 3.4 and 5.2 found best, all samples trained on. Learning rates and dropout were in table 1, which is lost:
rates are chosen, dropout is left out.

bloctrain/... are those of BlocTrain: epochs, batches, rates and the validation part of 10,000 images of section 5.1, no
variation of images but what the data sets have; hardness by section 6.1. high, low, leak and dampening are choices.
"""

from typing import Any

from ..surrogate import nearest

NEURON = dict(decay=0.5, threshold=1.0, reset="hard", detach_reset=False, fire_on_equal=False, surrogate="triangle")
TET = NEURON | dict(
    method="tet", batch_norm_lif=True, lr_decay="cosine", weight_decay=0.0, label_smoothing=0.0, batch_size=128
)
CIFAR = TET | dict(method="tit", optimizer="adam", lr=0.01, lam=0.05, steps=6, inherit="2:300", epochs=50)
CIFAR |= dict(held_out=0.0)
IMAGENET = TET | dict(data="imagenet", optimizer="sgd", lr=0.1, weight_decay=4e-5, lam=1e-3, held_out=0.0)
SMALL = TET | dict(
    model="convnet", optimizer="adamw", lr=3e-3, weight_decay=1e-2, batch_size=64, lam=0.05, steps=6, epochs=40
)

UNIT = dict(decay=0.8, threshold=0.3, reset_amount=0.3, reset_delay=True, detach_reset=False, surrogate="rectangle:0.6")
LOCAL = UNIT | dict(method="local-bptt", label_smoothing=0.0, weight_decay=0.0, lr_decay="halving", epochs=100)
MSE = LOCAL | dict(loss="mse", optimizer="sgd", lr=0.1, held_out=0.0)
DEEP = LOCAL | dict(loss="cross-entropy", optimizer="adam", lr=1e-3, held_out=0.0, batch_norm_lif=True)
FAST = LOCAL | dict(loss="mse", optimizer="adam", lr=2e-3, model="lenet1", epochs=40)

BLOC_UNIT = dict(decay=0.99, threshold=1.0, reset_delay=True, detach_reset=False, fire_on_equal=False)
BLOC = BLOC_UNIT | dict(
    method="bloctrain", surrogate="triangle:1:0.3", encode="poisson", steps=100, epochs=125, batch_size=64,
    optimizer="adam", lr=2e-4, finetune_lr=1e-4, lr_decay="constant", weight_decay=0.0, label_smoothing=0.0,
    held_out=0.2,
)  # fmt: skip
BLOC_SMALL = BLOC | dict(model="bloc-small", steps=20, lr=2e-3, finetune_lr=1e-3, epochs=30, held_out=None, decay=0.9)

RECIPES: dict[str, dict[str, Any]] = {
    "tet/cifar10/resnet19": CIFAR | dict(model="resnet19", data="cifar10"),
    "tet/cifar100/resnet19": CIFAR | dict(model="resnet19", data="cifar100"),
    "tet/cifar10/snn5": CIFAR | dict(method="tet", model="snn5", data="cifar10", steps=4, inherit="", epochs=300),
    "tet/cifar10-dvs/vggsnn": TET
    | dict(model="vggsnn", data="cifar10-dvs", steps=10, epochs=300, optimizer="adam", lr=1e-3, lam=1e-3, held_out=0.0),
    "tet/imagenet/sew-resnet34": IMAGENET
    | dict(model="sew-resnet34", steps=4, epochs=120, decay=1.0, detach_reset=True, fire_on_equal=True),
    "tet/imagenet/spiking-resnet34": IMAGENET
    | dict(method="tit", model="spiking-resnet34", inherit="4:90", steps=6, epochs=30, finetune_optimizer="adam"),
    "tet/digits/convnet": SMALL | dict(data="digits"),
    "tet/event-digits/convnet": SMALL | dict(data="event-digits"),
    "tet/event-digits-48/vggsnn": TET
    | dict(
        model="vggsnn", data="event-digits-48", steps=10, epochs=40, optimizer="adam", lr=1e-3, lam=1e-3, batch_size=16
    ),
    "local/emnist/lenet1": MSE
    | dict(model="lenet1", data="emnist-digits", steps=20, window="5", block=2, batch_size=1024),
    "local/cifar10/alexnet": MSE | dict(model="alexnet", data="cifar10", steps=10, window="1", block=1, batch_size=128),
    "local/dvs-gesture/lenet2": MSE
    | dict(model="lenet2", data="dvs-gesture", size=32, steps=60, window="10", block=1, batch_size=32),
    "local/cifar10-dvs/alexnet": MSE
    | dict(model="alexnet", data="cifar10-dvs", encode="binary", size=32, steps=100, window="10", block=1)
    | dict(batch_size=128),
    "local/n-caltech101/vgg11": DEEP
    | dict(model="vgg11", data="n-caltech101", size=64, steps=60, window="10", block=5, batch_size=32),
    "local/tiny-es-imagenet/sew-resnet18": DEEP
    | dict(model="sew-resnet18", data="tiny-es-imagenet", steps=8, window="4", block=2, batch_size=128),
    "local/digits/lenet1": FAST | dict(data="digits", steps=20, window="5", block=2),
    "local/event-digits/lenet1": FAST | dict(data="event-digits", encode="binary", steps=60, window="10", block=1),
    "bloctrain/cifar10/resnet9": BLOC | dict(model="bloc-resnet9", data="cifar10", hardness_std=-1.0),
    "bloctrain/cifar100/resnet11": BLOC | dict(model="bloc-resnet11", data="cifar100", hardness_std=0.5),
    "bloctrain/cifar100/vgg16": BLOC | dict(model="bloc-vgg16", data="cifar100", hardness_std=0.5),
    "bloctrain/digits/small": BLOC_SMALL | dict(data="digits", encode="direct"),
    "bloctrain/event-digits/small": BLOC_SMALL | dict(data="event-digits", encode=None, steps=10),
}


def recipe(name: str) -> dict[str, Any]:
    """The options of the recipe called `name`; ValueError with the nearest names if there is none."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]
