"""BatchNormLIF: batch norm and leaky integrate-and-fire neurons as one layer that keeps its input alone."""

import torch
from torch import nn

from .. import batch_norm
from ..neuron import _number
from ..ops.state import membrane_dtype
from .lif import LIF, check_channels


class BatchNormLIF(LIF):
    """Batch norm over time, batch and space, then `LIF`, as one operator (the equations of `fastlif.batch_norm_lif`).

    In place of `PerStep(nn.BatchNorm2d(channels))` and `LIF(...)` behind it; parameters and buffers have batch norm's
    names, so that its state dict loads.

    Args:
        channels: C of the input [T, B, C, ...].
        eps, momentum, affine, track_running_stats: as for torch.nn.BatchNorm2d, eps not negative and momentum in
            [0, 1]; momentum None averages all calls.
        alpha: None, or the threshold-dependent scale (Zheng et al. 2021): what is normalized is multiplied by
            alpha * threshold before weight and bias.
        process_group: False, True (the default group) or a torch.distributed group over whose ranks statistics are
            taken in training, as SyncBatchNorm does. Of a group its name is kept, so that the layer can be copied and
            pickled.
        decay, threshold and the other options: as for `LIF`, without state="compact".
        learn_decay, learn_threshold: one learned value for each channel if `by_channel`, else one in all.

    Shape: [T, B, C, ...] -> spikes [T, B, C, ...].
    """

    def __init__(
        self,
        channels: int,
        decay: float = 0.5,
        threshold: float = 1.0,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        alpha: float | None = None,
        process_group=False,
        by_channel: bool = False,
        **options,
    ):
        channels = check_channels(channels)
        if "channels" in options:
            raise TypeError("BatchNormLIF takes channels once: by_channel=True learns a value for each of them")
        if options.get("state") == "compact":
            raise ValueError(
                "state='compact' is not for BatchNormLIF, which keeps its input alone for any neuron: leave out state"
            )
        _number("eps", eps, 0.0)
        if momentum is not None:
            _number("momentum", momentum, 0.0, 1.0)
        if alpha is not None and _number("alpha", alpha) <= 0:
            raise ValueError(f"alpha must be None or a positive number, got {alpha}")
        if not isinstance(process_group, bool):
            process_group = group_name(process_group)
        super().__init__(decay, threshold, channels=channels if by_channel else None, **options)
        self.num_features, self.eps, self.momentum, self.alpha = channels, eps, momentum, alpha
        self.process_group: bool | str = process_group
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_parameter(name, nn.Parameter(torch.full((channels,), value)) if affine else None)
        tracked = {
            "running_mean": torch.zeros(channels),
            "running_var": torch.ones(channels),
            "num_batches_tracked": torch.tensor(0),
        }
        for name, value in tracked.items():
            self.register_buffer(name, value if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Start the running statistics anew."""
        if self.running_mean is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Start weight, bias and running statistics anew."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def _run(self, x, carried):
        momentum = 0.0 if self.momentum is None else self.momentum
        counts = self.training and self.num_batches_tracked is not None
        if counts and self.momentum is None:
            momentum = (self.num_batches_tracked + 1).to(self.running_mean.dtype).reciprocal()
        done = batch_norm.run(
            self.neuron, x, self.running_mean, self.running_var, self.effective_weight(x), self.bias, carried,
            **self._params(x), training=self.training, momentum=momentum, eps=self.eps, group=self._group(),
            backend=self.backend, emit=torch.is_grad_enabled(),
        )  # fmt: skip
        if counts:
            self.num_batches_tracked.add_(1)
        return done

    def effective_weight(self, like: torch.Tensor) -> torch.Tensor | None:
        """What multiplies the normalized input, [C]: weight, times alpha * threshold where there is an alpha.

        like: the tensor whose device, and membrane dtype, it has where there is no weight.
        """
        if self.alpha is None:
            return self.weight
        scale = self.alpha * self.threshold
        if self.weight is not None:
            return self.weight * scale
        return torch.ones(self.num_features, dtype=membrane_dtype(like.dtype), device=like.device) * scale

    def _group(self) -> str | None:
        """The name of the process group over which statistics are taken, None for this process alone."""
        if self.process_group is False or not self.training or not torch.distributed.is_initialized():
            return None
        group = torch.distributed.group.WORLD.group_name if self.process_group is True else self.process_group
        return group if torch.distributed.distributed_c10d._get_group_size_by_name(group) > 1 else None

    def extra_repr(self) -> str:
        shown = [str(self.num_features), f"eps={self.eps}", f"momentum={self.momentum}"]
        shown += ["affine=False"] if self.weight is None else []
        shown += ["track_running_stats=False"] if self.running_mean is None else []
        shown += [] if self.alpha is None else [f"alpha={self.alpha}"]
        return ", ".join([*shown, super().extra_repr()]).rstrip(", ")


def group_name(group: "torch.distributed.ProcessGroup") -> str:
    """The name under which torch.distributed finds a process group: unlike the group it can be copied and pickled."""
    if not torch.distributed.is_available() or not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(
            f"process_group must be True, False or a torch.distributed.ProcessGroup, got {type(group).__name__}"
        )
    return group.group_name
