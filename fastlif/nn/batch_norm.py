"""BatchNormLIF: batch norm and leaky integrate-and-fire neurons as one layer that keeps its input alone."""

import torch
from torch import nn

from .. import batch_norm
from .lif import LIF


class BatchNormLIF(LIF):
    """Batch norm over time, batch and space, then `LIF`, as one operator (the equations of `fastlif.batch_norm_lif`).

    In place of `PerStep(nn.BatchNorm2d(channels))` and `LIF(...)` behind it; parameters and buffers have batch norm's
    names, so that its state dict loads.

    Args:
        channels: C of the input [T, B, C, ...].
        eps, momentum, affine, track_running_stats: as for torch.nn.BatchNorm2d; momentum None averages all calls.
        alpha: None, or the threshold-dependent scale (Zheng et al. 2021): what is normalized is multiplied by
            alpha * threshold before weight and bias.
        process_group: False, True (the default group) or a torch.distributed group over whose ranks statistics are
            taken in training, as SyncBatchNorm does.
        decay, threshold and the other options: as for `LIF`.
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
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be a positive integer, got {channels!r}")
        if "channels" in options:
            raise TypeError("BatchNormLIF takes channels once: by_channel=True learns a value for each of them")
        super().__init__(decay, threshold, channels=channels if by_channel else None, **options)
        self.num_features, self.eps, self.momentum, self.alpha = channels, eps, momentum, alpha
        self.process_group = process_group
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
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = self.num_batches_tracked.reciprocal()
        return batch_norm.run(
            self.neuron, x, self.running_mean, self.running_var, self.effective_weight(), self.bias, carried,
            **self._params(x), training=self.training, momentum=momentum, eps=self.eps, group=self._group(),
            backend=self.backend, emit=torch.is_grad_enabled(),
        )  # fmt: skip

    def effective_weight(self) -> torch.Tensor | None:
        """What multiplies the normalized input, [C]: weight, times alpha * threshold where there is an alpha."""
        if self.alpha is None:
            return self.weight
        scale = self.alpha * self.threshold
        if self.weight is not None:
            return self.weight * scale
        like = dict(dtype=torch.float32, device=next(self.buffers(), torch.empty(0)).device)
        return torch.ones(self.num_features, **like) * scale

    def _group(self) -> str | None:
        if self.process_group is False or not self.training or not torch.distributed.is_initialized():
            return None
        group = torch.distributed.group.WORLD if self.process_group is True else self.process_group
        return group.group_name if group.size() > 1 else None

    def extra_repr(self) -> str:
        shown = [str(self.num_features), f"eps={self.eps}", f"momentum={self.momentum}"]
        shown += ["affine=False"] if self.weight is None else []
        shown += ["track_running_stats=False"] if self.running_mean is None else []
        shown += [] if self.alpha is None else [f"alpha={self.alpha}"]
        return ", ".join([*shown, super().extra_repr()]).rstrip(", ")
