"""BlocTrain's networks (Srinivasan & Roy 2021, figures 3 and 8): ResNet-9 and ResNet-11, VGG-16, and a small one."""

from dataclasses import replace

from . import chain
from .bloc import Plan
from .bloc_net import BlocNet


def residual(channels: int, stride: int, hidden: tuple[int, ...]) -> Plan:
    """Two convolutions, the second with a stride, and a residual connection from the block before."""
    return Plan((channels, (channels, 3, stride)), skip=0, hidden=hidden)


class BlocResNet9(BlocNet):
    """[64C3-AP2-128C3-128C3s2] [256C3-256C3s2] [512C3-512C3s2]: ResNet-9 in 3 blocks, of ResNet-5, 7 and 9 (figure 5).

    Each block's last convolution gets the currents of a 1x1 convolution too: in the first block from the pooling, else
    from the block's input, which is the paper's residual connection between blocks. A classifier is a hidden layer and
    the output. Figure 3, which had the sizes, is lost; "similar to the topology presented in Lee et al. (2020)": the
    convolutions are theirs. Of hidden neurons the first block has 512, the others 1024: with these the paper's count of
    memory, for one sample, is 1.33, 3.02 and 2.83 times less than end to end in blocks 1 to 3
    (1.32 to 2.95 in section 5.2, and a little more in block 3 than in block 2; `fastlif.cost.bloctrain`).

    Args:
        shape, classes, neurons, per_step, **options: as for `BlocNet`.
        width: factor of all channels and hidden neurons, rounded, at least 1.
    """

    def __init__(self, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, *, width: float = 1.0, **options):
        super().__init__(shape, classes, scaled(self.plans(), width), **options)

    @staticmethod
    def plans() -> list[Plan]:
        """Of the blocks."""
        first = Plan((64, "pool", 128, (128, 3, 2)), skip=2, hidden=(512,))
        return [first, residual(256, 2, (1024,)), residual(512, 2, (1024,))]


class BlocResNet11(BlocResNet9):
    """`BlocResNet9` and a fourth block, [512C3-512C3], whose second convolution has no stride, for 100 classes."""

    def __init__(self, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 100, **options):
        super().__init__(shape, classes, **options)

    @staticmethod
    def plans() -> list[Plan]:
        """Of the blocks."""
        return [*BlocResNet9.plans(), residual(512, 1, (1024,))]


class BlocVGG16(BlocNet):
    """[64C3 x 2-AP2-128C3 x 2-AP2] [256C3 x 3-AP2] [512C3 x 3-AP2] [512C3 x 3-AP2], a linear classifier for each.

    The fourth block gets the spikes of the first and second ones too, through 1x1 convolutions to its first one, and
    has a threshold of its own (section 5.4). Figure 8 is lost: channels and poolings are VGG-16's, the cuts are at its
    poolings, the fourth block's threshold of 0.5 and where its residual inputs go are choices.

    Args:
        shape, classes, neurons, per_step, **options: as for `BlocNet`.
        width: as for `BlocResNet9`.
        last_threshold: of the fourth block's convolutions.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 100,
        *,
        width: float = 1.0,
        last_threshold: float = 0.5,
        **options,
    ):
        plans = [Plan((64, 64, "pool", 128, 128, "pool")), Plan((256, 256, 256, "pool")), Plan((512, 512, 512, "pool"))]
        plans.append(Plan((512, 512, 512, "pool"), earlier=(0, 1), threshold=last_threshold))
        super().__init__(shape, classes, scaled(plans, width), **options)


class BlocSmall(BlocNet):
    """[16C3-32C3s2] [32C3-64C3s2] [64C3-64C3s2], classifiers with 64 hidden neurons: for digits, of our own.

    The first block's convolutions are joined as `BlocResNet9`'s, from its first one.

    Args:
        shape, classes, neurons, per_step, **options: as for `BlocNet`.
        width: as for `BlocResNet9`.
    """

    def __init__(self, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10, *, width: float = 1.0, **options):
        plans = [Plan((16, (32, 3, 2)), skip=1, hidden=(64,)), Plan((32, (64, 3, 2)), skip=0, hidden=(64,))]
        plans.append(residual(64, 2, (64,)))
        super().__init__(shape, classes, scaled(plans, width), **options)


def scaled(plans: list[Plan], width: float) -> list[Plan]:
    """The plans with `width` times the channels and hidden neurons."""
    return [
        replace(plan, layers=chain.scaled(plan.layers, width), hidden=tuple(chain.scaled(plan.hidden, width)))
        for plan in plans
    ]
