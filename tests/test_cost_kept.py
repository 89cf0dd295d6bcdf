"""What fastlif keeps in local truncated BPTT: predicted from shapes, against blocks that run window by window."""

import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch
from torch import nn

import fastlif
from fastlif import LIF, PerStep
from fastlif.cost import kept
from fastlif.models import ConvNet, LeNet1, SEWResNet34
from fastlif.models.blocks import split
from fastlif.nn import Stateful
from fastlif.train import Config, compare, recipe


def measured(net, x, k, n, learned=True):
    """Bytes that each block and its classifier keep on a window, the most of all windows; membranes carried."""
    blocks, parts, s = split(net.stages, n), [], x
    for block in blocks[:-1]:
        s = block(s)
        classifier = nn.Linear(s[0, 0].numel(), 5).requires_grad_(learned)
        parts.append(nn.Sequential(block, PerStep(nn.Flatten(), classifier), LIF()))
    ends = () if isinstance(net, LeNet1) else (LIF(),)
    parts.append(nn.Sequential(blocks[-1], net.readout.requires_grad_(learned), *ends))
    neurons = [layer for part in parts for layer in part.modules() if isinstance(layer, Stateful)]
    for layer in neurons:
        layer.carry_state = True
    outputs = []
    for block in blocks:
        block.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    most = [0] * len(parts)
    for window in x.split(k):
        outputs.append(window)
        for i, part in enumerate(parts):
            most[i] = max(most[i], fastlif.saved_bytes(part, outputs[-1]).total)
            fastlif.detach_state(part)
    return most, sum(4 * layer.v.numel() for layer in neurons)


NETS = {
    "triangle": lambda: ConvNet((2, 8, 8), 5, layers=(8, "pool", 16, (12, 5))),
    "two bits": lambda: ConvNet((2, 8, 8), 5, lambda: LIF(surrogate="rectangle"), layers=(8, "pool", 16, 12)),
    "fused": lambda: ConvNet((2, 8, 8), 5, layers=(8, "pool", 16, 12), norm_neurons=fastlif.BatchNormLIF),
    "compact": lambda: ConvNet((2, 8, 8), 5, lambda: LIF(state="compact"), layers=(8, "pool", 16, 12)),
    "pooling spikes": lambda: LeNet1((2, 8, 8), 5, layers=(8, "pool", 16, "pool", 12), hidden=(24,)),
    "sums": lambda: SEWResNet34((2, 8, 8), 5, layers=((8, 1), (12, 1)), stem=8),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_kept_is_predicted(name):
    x = (torch.rand(7, 3, 2, 8, 8) < 0.3).float()
    for k, n in ((7, 9), (7, 2), (3, 2), (3, 3), (1, 2), (4, 9)):
        net = NETS[name]()
        found = kept(net, x, k=k, n=n)
        blocks, membranes = measured(net, x, k, n)
        assert found.blocks == pytest.approx(blocks, rel=0.01), (k, n)
        assert found.most == max(found.blocks) and found.membranes == membranes
        assert json.loads(json.dumps(asdict(found)))["most"] == found.most


def test_what_is_kept_by_layerwise_blocks_and_random_classifiers():
    x = torch.rand(6, 3, 2, 8, 8)
    predicted = {}
    for how, k in product(("trainable", "random"), (6, 2)):
        net = NETS["two bits"]()
        found = predicted[how, k] = kept(net, x, k=k, n=1, classifiers=how)
        assert found.blocks == pytest.approx(measured(net, x, k, 1, how == "trainable")[0], rel=0.01)
    assert predicted["random", 6].most <= predicted["trainable", 6].most
    assert predicted["trainable", 2].most < 0.4 * predicted["trainable", 6].most


def test_what_is_kept_of_an_image_shown_at_every_step():
    x = torch.rand(3, 2, 8, 8).expand(6, 3, 2, 8, 8)
    for k, n in ((6, 9), (3, 1), (1, 2)):
        net = NETS["two bits"]()
        found = kept(net, x, k=k, n=n)
        assert found.blocks == pytest.approx(measured(net, x, k, n)[0], rel=0.01), (k, n)
    assert kept(net, x).most == kept(net, x.contiguous()).most + 4 * x.numel()


@pytest.mark.parametrize("surrogate", ["rectangle:0.6", "triangle"])
def test_runs_report_what_is_predicted(surrogate):
    for data, window in product(("digits", "event-digits"), ("3", "1", "6")):
        config = Config(**{**recipe(f"local/{data}/lenet1"), "window": window, "surrogate": surrogate, "steps": 6})
        config = replace(config, device="cpu", batch_size=8)
        net, (x, _) = compare.begin(config, "fastlif")
        found = kept(net, x, k=int(window), n=config.block, neurons=lambda own=config.neuron: LIF(**own))
        assert compare.kept(config, "fastlif").total == pytest.approx(found.most, rel=0.01), (data, window)
    first, both = (compare.kept(replace(config, window=window), "fastlif").total for window in ("2", "6,2"))
    assert first == both, "the membrane behind the steps without gradient"


def test_choices_of_the_plan_serve_blocks():
    net, shape = NETS["triangle"](), (6, 3, 2, 8, 8)
    choices = [choice for choice in fastlif.plan(net, shape).choices if choice.reason is None]
    whole = kept(net, torch.empty(shape))
    assert whole.most == pytest.approx(choices[0].saved, rel=0.01), "but for the classifier's neurons"
    of_blocks = [kept(net, torch.empty(shape), k=3, n=1, choice=choice).most for choice in choices]
    saved = [choice.saved for choice in choices]
    assert all(a < b for a, b in zip(of_blocks, saved, strict=True))
    assert min(of_blocks) < of_blocks[0] / 3, "convolutions made again"
