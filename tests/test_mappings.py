"""The README's table: neurons of other libraries, and the options with which fastlif computes the same."""

import pytest
import torch

import fastlif
from fastlif import LIF

STEPS, SHAPE = 12, (4, 250)


def spikingjelly_layer(**options):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    return neuron.LIFNode(step_mode="m", **options)


def over_time(step, state):
    """A library's single step as a layer [T, ...] -> spikes [T, ...]."""

    def layer(x):
        carried, spikes = state(x[0]), []
        for current in x:
            s, carried = step(current, carried)
            spikes.append(s)
        return torch.stack(spikes)

    return layer


def snntorch_layer(**options):
    leaky = pytest.importorskip("snntorch").Leaky(**options)
    return over_time(leaky, torch.zeros_like)


def norse_layer(dt, tau_mem_inv, **options):
    box = pytest.importorskip("norse.torch.functional.lif_box")
    numbers = {name: torch.tensor(value) for name, value in (options | {"tau_mem_inv": tau_mem_inv}).items()}
    parameters = box.LIFBoxParameters(**numbers)
    return over_time(
        lambda x, state: box.lif_box_feed_forward_step(x, state, parameters, dt),
        lambda x: box.LIFBoxFeedForwardState(v=torch.zeros_like(x)),
    )


PAIRS = {
    "spikingjelly hard": (
        lambda: spikingjelly_layer(tau=2.0, v_threshold=1.0, v_reset=0.0),
        {"decay": 0.5, "gain": 0.5, "reset": "hard", "surrogate": "sigmoid"},
    ),
    "spikingjelly soft, input not decayed, detached": (
        lambda: spikingjelly_layer(tau=4.0, v_reset=None, decay_input=False, detach_reset=True),
        {"decay": 0.75, "detach_reset": True, "surrogate": "sigmoid"},
    ),
    "snntorch subtract": (
        lambda: snntorch_layer(beta=0.75, threshold=1.0),
        {"decay": 0.75, "reset_delay": True, "detach_reset": True, "fire_on_equal": False, "surrogate": "atan"},
    ),
    "norse": (
        lambda: norse_layer(0.001, 250.0, v_leak=0.25, v_th=0.5, v_reset=0.0),
        {
            "decay": 0.75,
            "gain": 0.25,
            "bias": 0.0625,
            "threshold": 0.5,
            "reset": "hard",
            "fire_on_equal": False,
            "surrogate": fastlif.FastSigmoid(1.0),  # norse 1.1 does not apply its alpha
        },
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_same_spikes_and_gradients(name):
    theirs, options = PAIRS[name]
    x = (2 * torch.randn(STEPS, *SHAPE)).requires_grad_()
    weight = torch.randn(STEPS, *SHAPE)
    spikes = [layer(x) for layer in (theirs(), LIF(**options))]
    assert spikes[1].mean() > 0.02
    flips = int((spikes[0] != spikes[1]).sum())
    assert flips <= 1e-4 * x.numel()
    if not flips:
        grads = [torch.autograd.grad((s * weight).sum(), x)[0] for s in spikes]
        assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[0].norm()
