"""Bytes that one layer keeps for backward, counted by saved_bytes and again by the tensors left alive."""

import copy

import pytest
import torch
from cases import RESETS
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastlif

STEPS, NEURONS = 32, 4000
RECTANGLE, TRIANGLE, PASS = fastlif.Rectangle(1.5), fastlif.Triangle(), fastlif.PassThrough()
HARD, COMPACT, DETACHED = {"reset": "hard"}, {"state": "compact"}, {"detach_reset": True}


def kept(dtype=torch.float32, steps=STEPS, neurons=NEURONS, **options) -> float:
    """Bytes per neuron and step of one call whose x is not a leaf, as a convolution's output is not."""
    leaf = torch.zeros(steps, neurons, dtype=dtype, requires_grad=True)

    def call():
        return fastlif.lif(leaf + 1, **options)[0]

    return fastlif.saved_bytes(call).total / (steps * neurons)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
@pytest.mark.parametrize("options", ({}, {"reset_delay": True}, {"reset": "none"}, {**HARD, **DETACHED}))
def test_rectangle_keeps_two_bits(options, dtype):
    total = kept(dtype, surrogate=RECTANGLE, **options) * STEPS * NEURONS
    assert STEPS * NEURONS / 4 <= total <= STEPS * NEURONS / 4 + 64


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_pass_through_keeps_the_spike_at_most(reset, dtype):
    total = kept(dtype, surrogate=PASS, **reset, detach_reset=reset["reset"] == "hard") * STEPS * NEURONS
    assert total <= STEPS * NEURONS / 8 + 64
    if reset["reset"] != "hard":
        assert total == 0


@pytest.mark.parametrize("surrogate", (TRIANGLE, RECTANGLE))
@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
def test_compact_keeps_a_byte(surrogate, reset):
    bytes_kept = kept(surrogate=surrogate, **reset, **COMPACT)
    assert bytes_kept <= 1.02
    if surrogate is RECTANGLE and reset["reset"] != "hard":
        assert bytes_kept <= 0.2501


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize(
    "options", ({"surrogate": TRIANGLE}, dict(surrogate="atan", **HARD), dict(surrogate=RECTANGLE, **HARD))
)
def test_the_rest_keeps_x(options, dtype):
    for steps in (1, 16, 17, 128):
        assert dtype.itemsize <= kept(dtype, steps, **options) <= dtype.itemsize + 0.3


@pytest.mark.parametrize("learned", ("decay", "gain", "threshold"))
def test_learned_values_keep_x_at_most(learned):
    value = torch.tensor(0.9, requires_grad=True)
    assert kept(**{learned: value}) <= 4.3
    assert kept(surrogate=RECTANGLE, **{learned: value}) <= (0.3 if learned == "threshold" else 4.3)


def test_nothing_without_gradients():
    assert fastlif.saved_bytes(fastlif.LIF(), torch.randn(8, 4, 5)).total == 0
    x = torch.randn(8, 4, 5, requires_grad=True)
    for layer in (fastlif.LIF(), fastlif.LIF(learn_decay=True, learn_threshold=True)):
        with torch.no_grad():
            assert fastlif.saved_bytes(layer, x * 2).total == 0
        with torch.inference_mode():
            assert not layer(torch.randn(8, 4, 5)).requires_grad


def test_truncation_keeps_the_steps_that_carry_gradient():
    for surrogate, each, state in ((RECTANGLE, 0.25, "exact"), (TRIANGLE, 1, "compact")):
        share = kept(surrogate=surrogate, state=state, steps=40, truncate=(20, 5)) / each
        assert abs(share - 0.25) < 0.01
    assert kept(surrogate=TRIANGLE, steps=40, truncate=(20, 5)) <= 4 * 0.25 + 4 * 2 / 40 + 0.01
    assert kept(surrogate=RECTANGLE, steps=40, truncate=5) <= 0.2501


CONFIGURATIONS = (
    {"surrogate": RECTANGLE},
    {"surrogate": PASS},
    dict(surrogate=PASS, **HARD, **DETACHED),
    {"surrogate": TRIANGLE},
    {"surrogate": TRIANGLE, "truncate": (8, 2)},
    dict(surrogate=TRIANGLE, **HARD, **COMPACT),
    dict(surrogate="atan", reset_delay=True, **DETACHED),
)


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_saved_bytes_agrees_with_resident_memory(options):
    """The allocator's own count of what a chain of layers still holds when only its last output is alive."""
    leaf = torch.zeros(STEPS, NEURONS, requires_grad=True)
    layers = 4
    net = nn.Sequential(*(fastlif.LIF(**options) for _ in range(layers)))
    counted = fastlif.saved_bytes(lambda: net(leaf * 1)).total

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        y = net(leaf * 1)
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    outputs = y.numel() * 4
    plane = y.numel() // 8  # y's own bits, for a layer to come, where the state has none
    assert -256 * layers <= held - outputs - counted <= plane + 256 * layers, (held, outputs, counted)


def test_by_layer():
    net = nn.Sequential(fastlif.PerStep(nn.Conv2d(2, 4, 3, padding=1)), fastlif.LIF(surrogate="rectangle"))
    found = fastlif.saved_bytes(net, torch.rand(8, 2, 2, 8, 8))
    neurons = 2 * 4 * 8 * 8
    assert found.by_layer["1"] == 8 * neurons // 4 and found.total == sum(found.by_layer.values())


def test_one_storage_counts_once():
    leaf = torch.randn(8, 100, requires_grad=True)

    def call():
        x = leaf + 1
        return fastlif.lif(x)[0] + fastlif.lif(x, decay=0.9)[0]

    assert fastlif.saved_bytes(call).total <= 8 * 100 * 4 + 256


def test_an_error_inside_leaves_no_hooks():
    net = nn.Sequential(fastlif.LIF(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        fastlif.saved_bytes(net, torch.randn(4, 5, requires_grad=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_carried_membrane_is_kept_only_where_backward_reads_it():
    x, v0 = torch.randn(4, 1000), torch.zeros(1000, requires_grad=True)

    def kept(detached=False, **options):
        start = v0.detach() if detached else v0
        return fastlif.saved_bytes(lambda x: fastlif.lif(x * 1, start * 1, **options), x).total

    assert kept(surrogate="rectangle") == 4 * 2 * 125
    assert kept(surrogate="rectangle", reset_delay=True) == 4 * 2 * 125 + 4000
    x.requires_grad_()
    assert kept(detached=True, surrogate="rectangle", reset_delay=True) == 4 * 2 * 125
    threshold = torch.ones((), requires_grad=True)
    assert kept(detached=True, threshold=threshold, surrogate="rectangle", reset_delay=True) == 4 * 2 * 125 + 4000 + 4


def test_inside_compact_what_that_keeps_is_counted():
    net = nn.Sequential(
        fastlif.PerStep(nn.Conv2d(2, 4, 3, padding=1)), fastlif.LIF(), fastlif.PerStep(nn.MaxPool2d(2)),
        nn.Flatten(2), nn.Linear(4 * 16, 100),
    )  # fmt: skip
    x = torch.randn(8, 2, 2, 8, 8)
    dense = fastlif.saved_bytes(net, x)
    for recompute in (None, "conv"):
        with fastlif.compact(recompute=recompute):
            found = fastlif.saved_bytes(net, x)
        assert found == fastlif.saved_bytes(fastlif.compact(copy.deepcopy(net), recompute=recompute), x)
        assert found.total < dense.total
    with fastlif.compact():
        assert fastlif.saved_bytes(lambda x: checkpoint(net, x, use_reentrant=False), x.requires_grad_()).total == 0


def test_views_of_parameters_and_nested_arguments_do_not_count():
    linear = torch.nn.Linear(100, 100)
    x = torch.randn(2, 3, 100, requires_grad=True)
    assert fastlif.saved_bytes(lambda xs: linear(xs[0]), [x]).total == 0
