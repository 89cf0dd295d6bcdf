"""Others' neurons against ours: each mapping of the table, spikes counted and gradients compared where spikes agree."""

import pytest
import torch
from naive import Fire

import fastlif

STEPS, NEURONS = 24, 20_000
SPIKINGJELLY = "spikingjelly.activation_based.neuron"


def make_x(low=None, high=None):
    """Random input that fires in about a third of the steps, or uniform between two bounds."""
    generator = torch.Generator().manual_seed(0)
    if low is not None:
        return torch.rand(STEPS, NEURONS, generator=generator) * (high - low) + low
    return torch.randn(STEPS, NEURONS, generator=generator) * 0.8 + 0.4


def compare(theirs, x, flips=0.0, v0=None, bound=1e-5, scale=1.0, **options):
    """`theirs` maps x to spikes. Share of differing spikes at most `flips`; gradients agree in neurons without any."""

    def ours(x):
        return fastlif.lif(x, v0, **options)[0]

    arriving = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    outcomes = []
    for function in (theirs, ours):
        leaf = x.clone().requires_grad_()
        spikes = function(leaf)
        outcomes.append((spikes.detach(), torch.autograd.grad(spikes, leaf, arriving)[0]))
    (want, want_gx), (got, got_gx) = outcomes
    assert 0.05 < got.mean() < 0.9
    differing = got != want
    assert differing.float().mean() <= flips, f"{differing.float().mean():.2e} of the spikes differ"
    same = ~differing.any(0)
    error = (got_gx[:, same] - want_gx[:, same]).norm() / want_gx[:, same].norm()
    assert error <= bound, f"gradients differ by {error:.2e}"


@pytest.mark.parametrize("detach", (False, True), ids=("through", "detach"))
@pytest.mark.parametrize("v_reset", (None, 0.0, -0.25))
@pytest.mark.parametrize("decay_input", (False, True))
@pytest.mark.parametrize("tau", (2.0, 1.7))
def test_spikingjelly_lif_node(tau, decay_input, v_reset, detach):
    neuron = pytest.importorskip(SPIKINGJELLY)
    surrogates = pytest.importorskip("spikingjelly.activation_based.surrogate")
    for theirs, ours in ((surrogates.ATan(alpha=2.0), fastlif.ATan(2.0)), (surrogates.Sigmoid(), fastlif.Sigmoid(4.0))):
        node = neuron.LIFNode(
            tau, decay_input, v_reset=v_reset, surrogate_function=theirs, detach_reset=detach, step_mode="m"
        )
        compare(
            lambda x, node=node: node(x),
            make_x() * (tau if decay_input else 1),
            flips=1e-4,
            v0=torch.full((NEURONS,), v_reset or 0.0),
            decay=1 - 1 / tau,
            gain=1 / tau if decay_input else 1.0,
            bias=(v_reset or 0.0) / tau,
            reset="soft" if v_reset is None else "hard",
            v_reset=v_reset or 0.0,
            detach_reset=detach,
            surrogate=ours,
        )


@pytest.mark.parametrize("v_reset", (None, 0.0))
def test_spikingjelly_is_exact_where_its_arithmetic_is(v_reset):
    """tau = 2 without decay of the input halves the membrane, as decay = 0.5 does."""
    neuron = pytest.importorskip(SPIKINGJELLY)
    node = neuron.LIFNode(2.0, False, v_reset=v_reset, step_mode="m")
    compare(
        lambda x: node(x),
        make_x(),
        reset="soft" if v_reset is None else "hard",
        surrogate=fastlif.Sigmoid(4.0),
        bound=1e-6,
    )


@pytest.mark.parametrize("v_reset", (None, 0.0))
def test_spikingjelly_if_node(v_reset):
    neuron = pytest.importorskip(SPIKINGJELLY)
    node = neuron.IFNode(v_reset=v_reset, step_mode="m")
    reset = "soft" if v_reset is None else "hard"
    compare(lambda x: node(x), make_x(), decay=1.0, reset=reset, surrogate=fastlif.Sigmoid(4.0))


@pytest.mark.parametrize("threshold", (1.0, 0.7))
@pytest.mark.parametrize("mechanism", ("subtract", "zero", "none"))
def test_snntorch_leaky(mechanism, threshold):
    snntorch = pytest.importorskip("snntorch")
    from snntorch import surrogate

    for theirs, ours in (
        (surrogate.atan(2.0), fastlif.ATan(2.0)),
        (surrogate.fast_sigmoid(25), fastlif.FastSigmoid(25)),
    ):
        leaky = snntorch.Leaky(beta=0.9, threshold=threshold, spike_grad=theirs, reset_mechanism=mechanism)
        options = {
            "subtract": {"reset_delay": True, "detach_reset": True},
            "zero": {"reset": "hard", "detach_reset": True},
            "none": {"reset": "none"},
        }[mechanism]
        x = make_x() - (0.35 if mechanism == "none" else 0)
        compare(unrolled(leaky), x, decay=0.9, threshold=threshold, fire_on_equal=False, surrogate=ours, **options)


@pytest.mark.parametrize("mechanism", ("subtract", "zero"))
def test_snntorch_leaky_without_delay(mechanism):
    """reset_delay=False resets at once and lets the gradient through. It takes back a reset that leaves the membrane
    above the threshold, so the input stays below it here."""
    snntorch = pytest.importorskip("snntorch")
    from snntorch import surrogate

    leaky = snntorch.Leaky(beta=0.9, spike_grad=surrogate.atan(2.0), reset_mechanism=mechanism, reset_delay=False)
    reset = "soft" if mechanism == "subtract" else "hard"
    compare(
        unrolled(leaky), make_x(0.0, 0.95), decay=0.9, reset=reset, fire_on_equal=False, surrogate=fastlif.ATan(2.0)
    )


def unrolled(leaky):
    def run(x):
        mem, spikes = leaky.reset_mem(), []
        mem = torch.zeros_like(x[0])
        for step in x:
            s, mem = leaky(step, mem)
            spikes.append(s)
        return torch.stack(spikes)

    return run


@pytest.mark.parametrize("reset", ("value", "subtract"))
def test_norse_lif_box(reset):
    """dv = dt / tau * (x + v_leak - v); fires above the threshold. Its SuperSpike has slope 1, whatever alpha says."""
    pytest.importorskip("norse")
    from norse.torch.functional import lif_box
    from norse.torch.functional import reset as resets

    share = 0.3
    parameters = lif_box.LIFBoxParameters(
        tau_mem_inv=torch.tensor(share / 0.001),
        v_leak=torch.tensor(0.1),
        v_reset=torch.tensor(-0.2),
        reset_method=getattr(resets, f"reset_{reset}"),
    )

    def theirs(x):
        state, spikes = lif_box.LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
        for step in x:
            s, state = lif_box.lif_box_feed_forward_step(step, state, parameters)
            spikes.append(s)
        return torch.stack(spikes)

    compare(
        theirs,
        make_x() * 3,
        flips=1e-4,
        decay=1 - share,
        gain=share,
        bias=share * 0.1,
        reset="hard" if reset == "value" else "soft",
        v_reset=-0.2 if reset == "value" else 0.0,
        fire_on_equal=False,
        surrogate=fastlif.FastSigmoid(1.0),
    )


def triangle_above(gamma):
    return lambda z: (1 / gamma**2) * torch.clamp(gamma - z.abs(), min=0)


@pytest.mark.parametrize("gamma", (1.0, 0.5))
def test_tet(gamma):
    """u = tau*u + I; s = u > V; u = u*(1 - s), gradient through all of it; surrogate max(0, gamma - |z|) / gamma^2."""

    def theirs(x):
        u, spikes = torch.zeros_like(x[0]), []
        for step in x:
            u = 0.5 * u + step
            s = Fire.apply(u - 1.0, triangle_above(gamma), False, None)
            u = u * (1 - s)
            spikes.append(s)
        return torch.stack(spikes)

    compare(theirs, make_x(), decay=0.5, reset="hard", fire_on_equal=False, surrogate=fastlif.Triangle(gamma))


@pytest.mark.parametrize(("threshold", "flips"), ((1.0, 0), (2.0, 0), (0.7, 1e-4)))
def test_bloctrain(threshold, flips):
    """BlocTrain: u = alpha*u + I - v*s_prev; s = u/v - 1 > 0; surrogate 0.3*max(0, 1 - |u/v - 1|)."""

    def theirs(x):
        u, s, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for step in x:
            u = 0.95 * u + step - threshold * s
            s = Fire.apply(u / threshold - 1, lambda z: 0.3 * torch.clamp(1 - z.abs(), min=0), False, None)
            spikes.append(s)
        return torch.stack(spikes)

    compare(
        theirs,
        make_x() * threshold,
        flips=flips,
        decay=0.95,
        threshold=threshold,
        reset_delay=True,
        fire_on_equal=False,
        surrogate=fastlif.Triangle(threshold, 0.3 / threshold),
    )


def test_local_truncated_bptt():
    """u = tau*u + I - theta*s_prev; s = u >= u_th; du[t+1]/du[t] = tau - theta*sg; windows of k steps."""
    k, tau, theta, u_th = 5, 0.8, 0.6, 0.9

    def theirs(x):
        u, spikes = torch.zeros_like(x[0]), []
        s = torch.zeros_like(u)
        for t, step in enumerate(x):
            if t % k == 0:
                u, s = u.detach(), s.detach()
            u = tau * u + step - theta * s
            s = Fire.apply(u - u_th, lambda z: (z.abs() < 0.5).float(), True, None)
            spikes.append(s)
        return torch.stack(spikes)

    compare(
        theirs,
        make_x(),
        decay=tau,
        threshold=u_th,
        reset_amount=theta,
        reset_delay=True,
        surrogate="rectangle",
        truncate=k,
    )
