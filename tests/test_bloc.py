"""Blocks of layers with a classifier: their neurons, currents and gradients against a loop over steps."""

import functools

import naive
import pytest
import torch
from cases import norm_error
from torch.nn import functional

from fastlif import LIF, models
from fastlif.models.bloc import Bloc, Plan
from fastlif.models.bloc_net import BlocNet, neurons
from fastlif.surrogate import ATan, PassThrough, Triangle
from fastlif.train import naive as naive_layers

PLANS = [
    Plan((4, "pool", (6, 3, 2)), skip=1, hidden=(7,)),
    Plan((5, (6, 1)), skip=0, hidden=(6, 5)),
    Plan((6,)),
    Plan((5,), skip=0, earlier=(0, 1), threshold=0.5),
]


def make(seed=0, plans=PLANS, classes=5, shape=(1, 8, 8), **options):
    """Blocks in float64, of which all spike."""
    torch.manual_seed(seed)
    return twice(BlocNet(shape, classes, plans, **options))


def twice(net):
    """The network in float64, its weights twice as large."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    return net.double()


def make_x(steps=4, size=3, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(steps, size, *shape, generator=generator, dtype=torch.float64)


def algorithm2(block, plan, sources, alpha=0.99, v=1.0, parts=False):
    """(spikes, logits, detector's): layer after layer in every step, U = alpha*U + W*S + W_res*S_res - V*S_before."""
    *earlier, x = sources
    own = plan.threshold or v
    weighted = [n for n, layer in enumerate(plan.layers) if layer != "pool"]
    hidden = [m.module.weight for m in block.head[1::2]] if block.head is not None else []
    u = dict.fromkeys(range(len(plan.layers) + len(hidden)), 0.0)
    s, out, detected, spikes = dict.fromkeys(u, 0.0), 0.0, 0.0, []

    def fire(n, decay, current, threshold, derivative):
        u[n] = decay * u[n] + current - threshold * s[n]
        s[n] = naive.Fire.apply(u[n] - threshold, derivative, False, None)
        return s[n]

    for t in range(len(x)):
        h = [x[t]]
        for n, (layer, stage) in enumerate(zip(plan.layers, block.stages, strict=True)):
            if layer == "pool":
                h.append(fire(n, 1.0, functional.avg_pool2d(h[-1], 2), v, lambda z: torch.full_like(z, 1 / v)))
                continue
            weight, stride = stage.main.module.weight, layer[2] if isinstance(layer, tuple) and len(layer) > 2 else 1
            current = functional.conv2d(h[-1], weight, None, stride, weight.shape[-1] // 2)
            others = [spikes[t] for spikes in earlier] if n == weighted[0] else []
            others += [h[plan.skip]] if plan.skip is not None and n == weighted[-1] else []
            for side, other in zip(stage.sides, others, strict=True):
                stride = other.shape[-1] // current.shape[-1]
                current = current + functional.conv2d(other, side.module.weight, None, stride)
            h.append(fire(n, alpha, current, own, lambda z: naive.triangle(z, own, 0.3 / own)))
        spikes.append(h[-1])
        if block.classifier is None:
            continue
        flat = h[-1].flatten(1)
        for n, weight in enumerate(hidden, len(plan.layers)):
            flat = fire(n, alpha, flat @ weight.T, v, lambda z: naive.triangle(z, v, 0.3 / v))
        out = alpha * out + flat @ block.classifier[0].module.weight.T
        if block.detector is not None:
            detected = alpha * detected + (flat @ block.detector[0].module.weight.T)[:, 0]
    return torch.stack(spikes), out, detected if block.detector is not None else None


def agree(net, plans, x):
    """Each block's spikes bit for bit, its answers and gradients to rounding; where there are exits, block by block."""
    outputs = [x]
    for number, (block, plan) in enumerate(zip(net.blocks, plans, strict=True)):
        found = [outputs[source + 1].detach().requires_grad_() for source in block.sources]
        expected = [one.detach().requires_grad_() for one in found]
        spikes, *wanted = algorithm2(block, plan, expected)
        assert 0.01 < spikes.mean() < 0.9, number
        assert torch.equal(block.spikes(*found), spikes)
        logits, hard = block(*found)
        assert (hard is None) == (wanted[1] is None) == (number == 0)
        weights = torch.randn_like(logits)
        grads = []
        for leaves, (one, other) in ((found, (logits, hard)), (expected, wanted)):
            loss = (one * weights).sum() + (0 if other is None else (other * weights[:, 0]).sum())
            grads.append([loss, *torch.autograd.grad(loss, [*block.parameters(), *leaves])])
        torch.testing.assert_close(logits, wanted[0], rtol=1e-12, atol=1e-12)
        for grad, theirs in zip(*grads, strict=True):
            assert theirs.any() and norm_error(grad, theirs) < 1e-10
        outputs.append(spikes.detach())


def test_blocks_are_algorithm_2():
    agree(make(), PLANS, make_x())


def test_vgg16s_fourth_block_has_two_earlier_ones_and_its_own_threshold():
    torch.manual_seed(0)
    net = models.build("bloc-vgg16", (3, 32, 32), 4, width=1 / 16)
    assert [block.sources for block in net.blocks] == [(-1,), (0,), (1,), (0, 1, 2)]
    thresholds = [{m.neuron.threshold for m in block.modules() if type(m) is LIF} for block in net.blocks]
    assert thresholds == [{1.0}, {1.0}, {1.0}, {1.0, 0.5}]  # 1 is that of the pooling
    agree(twice(net), [block.plan for block in net.blocks], make_x(6, 2, (3, 32, 32)))


@pytest.mark.parametrize(
    ("threshold", "surrogate", "expected"),
    [(1.0, Triangle(1.0, 0.3), Triangle(0.5, 0.6)), (2.0, Triangle(2.0), Triangle(0.5, 2.0)), (1.0, ATan(), ATan())],
)
def test_the_triangle_is_one_of_u_over_the_threshold(threshold, surrogate, expected):
    """Algorithm 2: LinearGradient(U / V - 1). Other surrogates stay."""
    usual = functools.partial(LIF, threshold=threshold, surrogate=surrogate)
    block = Bloc(Plan((4, "pool"), threshold=0.5, hidden=(4,)), [(1, 1, 1), (1, 4, 4)], 3, usual)
    own, pooling, hidden = block.stages[0].neurons.neuron, block.stages[1][1].neuron, block.head[2].neuron
    assert (own.threshold, own.surrogate, own.reset_amount) == (0.5, expected, None)
    assert (hidden.threshold, hidden.surrogate) == (threshold, surrogate)
    assert (pooling.threshold, pooling.decay, pooling.surrogate) == (threshold, 1.0, PassThrough(1 / threshold))


@pytest.mark.parametrize("residuals", [True, False])
def test_end_to_end(residuals):
    """The last block's membranes after T steps, all layers as one; the gradient reaches every weight."""
    net, x = make(exits=False, residuals=residuals), make_x()
    plans = [block.plan for block in net.blocks]
    assert all((plan.skip, plan.earlier) == (None, ()) for plan in plans) != residuals
    outputs = [x]
    for block, plan in zip(net.blocks, plans, strict=True):
        spikes, logits, _ = algorithm2(block, plan, [outputs[source + 1] for source in block.sources])
        outputs.append(spikes)
    found = net(x)
    assert found.shape == (1, 3, 5)
    torch.testing.assert_close(found[0], logits, rtol=1e-12, atol=1e-12)
    weights, parameters = torch.randn_like(logits), list(net.parameters())
    grads = [torch.autograd.grad((one * weights).sum(), parameters) for one in (found[0], logits)]
    for grad, expected in zip(*grads, strict=True):
        assert expected.any() and norm_error(grad, expected) < 1e-10
    assert [name for name, _ in net.named_parameters() if "head" in name or "classifier" in name or "det" in name] == [
        "blocks.3.classifier.0.module.weight"
    ]


def test_naive_layers_give_the_same():
    plain = functools.partial(naive_layers.LIF, **vars_of(neurons().neuron))
    net, twin = make(), make(neurons=plain, per_step=naive_layers.PerStep)
    twin.load_state_dict(net.state_dict())
    for one, other in zip(net.all_outputs(make_x()), twin.all_outputs(make_x()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def vars_of(neuron):
    names = "decay", "threshold", "reset_delay", "fire_on_equal", "surrogate"
    return {name: getattr(neuron, name) for name in names}


@pytest.mark.parametrize(
    ("plans", "shape", "message"),
    [
        ([], (1, 8, 8), "there must be at least one block"),
        ([Plan((4, "pool", "pool"))], (1, 3, 8), "images of 3x8 are too small for these blocks"),
        (
            [Plan((4,)), Plan((4,), earlier=(0,))],
            (1, 8, 8),
            r"earlier must name blocks before the last one, got \(0,\)",
        ),
        ([Plan((4, "poll"))], (1, 8, 8), "unknown layer 'poll'"),
        ([Plan(((4, 2),))], (1, 8, 8), "kernels odd"),
        ([Plan((4, "pool", 4), skip=0)], (1, 11, 8), "11x8"),
    ],
)
def test_blocks_that_cannot_be(plans, shape, message):
    with pytest.raises(ValueError, match=message):
        make(plans=plans, shape=shape)


def test_images_of_other_shapes():
    """Strides of 1x1 convolutions by axis: 5x8 become 3x4 and 2x2."""
    plans = [Plan((4, (4, 3, 2), (4, 3, 2)), skip=0), Plan((4,), skip=0)]
    net = make(plans=plans, shape=(1, 5, 8))
    assert net.shapes[1:] == [(4, 2, 2)] * 2 and net.blocks[0].stages[2].sides[0].module.stride == (3, 4)
    assert net(make_x(shape=(1, 5, 8))).shape == (1, 3, 5)
