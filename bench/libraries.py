"""SpikingJelly, snnTorch and Norse as contenders: each library's own layer, set to compute the benchmark's neuron."""

import importlib
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from fastlif import Triangle

from .case import Case
from .naive import spike_function

Layer = Callable[[torch.Tensor], torch.Tensor]
MODULES = {
    "spikingjelly": "spikingjelly.activation_based.neuron",
    "snntorch": "snntorch",
    "norse": "norse.torch.functional.lif_box",
}
SPIKINGJELLY_BACKENDS = ("cuda", "triton", "half", "torch")  # native CUDA, Triton, Triton with h in x's dtype, PyTorch


def missing(library: str, case: Case) -> str | None:
    """Why `library` cannot be imported, or None."""
    try:
        importlib.import_module(MODULES[library])
    except ImportError as error:
        return f"not installed ({error})"
    return None


def spikingjelly_missing(case: Case, surrogate: str, backend: str) -> str | None:
    """Why SpikingJelly cannot run `case` with this surrogate and backend, or None."""
    if why := missing("spikingjelly", case):
        return why
    if case.device == "cpu":
        return None if backend == "torch" else f"its {backend} backend needs a CUDA device"
    if surrogate == "rectangle" and backend != "torch":
        return f"its {backend} kernels have no rectangular surrogate"
    if backend == "half" and case.dtype == "float32":
        return "float32 is not half"
    selection = _selection()
    selection._requested = requested(case, surrogate, backend)
    try:
        selection._select(torch.cuda.current_device())
    except RuntimeError as error:
        return str(error)
    return None


def requested(case: Case, surrogate: str, backend: str) -> str:
    """What SpikingJelly is asked for. For a surrogate that its kernels have not it takes PyTorch, but not by name."""
    if case.device == "cpu" or surrogate == "rectangle":
        return "auto"
    return "triton" if backend == "half" else backend


def _selection():
    from spikingjelly._ops.lif import _selection

    return _selection


@cache
def _node() -> type[nn.Module]:
    from spikingjelly.activation_based import neuron

    class Node(neuron.LIFNode):
        """With a float32 membrane, whatever x is: one in x's dtype leaves the kernels for plain PyTorch."""

        def materialize_states(self, inputs, states, step_mode):
            return super().materialize_states((inputs[0][:1].float(),), states, step_mode)

    return Node


def spikingjelly_node(reset: str, surrogate: str = "triangle", float32: bool = True) -> nn.Module:
    """Its multi-step LIFNode with tau = 2 and undecayed input: decay 0.5, gain 1. x [T, ...] -> spikes."""
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based import surrogate as functions

    function = {"triangle": functions.PiecewiseQuadratic, "rectangle": functions.Rect}[surrogate](1.0)
    make = _node() if float32 else neuron.LIFNode
    return make(2.0, False, 1.0, None if reset == "soft" else 0.0, function, step_mode="m")


def spikingjelly_batch_norm(channels: int) -> nn.Module:
    """Its multi-step batch norm: torch's, over time and batch."""
    from spikingjelly.activation_based import layer

    return layer.BatchNorm2d(channels, step_mode="m")


def keep_half(net: nn.Module, dtype: str, device: str) -> nn.Module:
    """SpikingJelly's own way to keep h in half precision: its Triton kernels store it so, and compute in float32."""
    from spikingjelly.activation_based.precision import prepare_model_for_precision

    short = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
    return prepare_model_for_precision(net, device, {"mode": short, "neuron_storage": short}).model


def reset_net(net: nn.Module) -> None:
    """What SpikingJelly's users call before every sequence."""
    from spikingjelly.activation_based import functional

    functional.reset_net(net)


class SpikingJelly(nn.Module):
    """Its node on one of its backends. x [T, ...] -> spikes."""

    def __init__(self, case: Case, surrogate: str = "triangle", backend: str = "auto"):
        super().__init__()
        self.node = spikingjelly_node(case.reset, surrogate, backend != "half")
        if backend == "half":
            self.node = keep_half(self.node, case.dtype, case.device)
        self.requested, self.chosen = requested(case, surrogate, backend), {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The library reads its backend from the environment at import; here several alternate in one process.
        selection = _selection()
        selection._requested, selection._selections = self.requested, self.chosen
        spikes = self.node(x)
        reset_net(self.node)
        return spikes


def snntorch_form(case: Case) -> dict:
    """snnTorch resets from the membrane of the step before, detached, and fires above the threshold."""
    own = {"detach_reset": True, "fire_on_equal": False}
    return case.form() | own | ({"reset_delay": True} if case.reset == "soft" else {})


class SnnTorch(nn.Module):
    """Leaky in its user's own loop, with our triangle as spike_grad and a float32 membrane. x [T, ...] -> spikes."""

    def __init__(self, reset: str):
        import snntorch

        super().__init__()
        mechanism = {"soft": "subtract", "hard": "zero"}[reset]
        self.leaky = snntorch.Leaky(0.5, 1.0, spike_grad=spike_function(Triangle()), reset_mechanism=mechanism)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        membrane = torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device)
        spikes = []
        for step in x:
            s, membrane = self.leaky(step, membrane)
            spikes.append(s)
        return torch.stack(spikes)


def norse_form(case: Case) -> dict:
    """LIFBox with dt / tau = 0.5 halves the input; with half the threshold its spikes are those of gain 1, threshold 1.

    Its triangle has a fixed width of 1, on this halved membrane twice the others'.
    """
    return case.form() | {"gain": 0.5, "threshold": 0.5, "fire_on_equal": False}


def norse(case: Case) -> Layer:
    """LIFBox in the library's own time loop, with its triangle and a float32 membrane."""
    from norse.torch.functional import lif_box
    from norse.torch.functional.reset import reset_subtract, reset_value
    from norse.torch.module.snn import SNN

    parameters = lif_box.LIFBoxParameters(
        tau_mem_inv=torch.tensor(0.5, device=case.device),
        v_leak=torch.tensor(0.0, device=case.device),
        v_th=torch.tensor(0.5, device=case.device),
        v_reset=torch.tensor(0.0, device=case.device),
        method="triangle",
        alpha=1.0,
        reset_method=reset_subtract if case.reset == "soft" else reset_value,
    )

    def start(x: torch.Tensor) -> lif_box.LIFBoxFeedForwardState:
        return lif_box.LIFBoxFeedForwardState(v=torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device))

    layer = SNN(lif_box.lif_box_feed_forward_step, start, parameters, dt=1.0)
    return lambda x: layer(x)[0]
