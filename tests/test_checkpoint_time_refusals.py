"""What checkpoint_time refuses, by name and with the reason, and that an error leaves everything as it was."""

import pytest
import torch
from cases import norm_error
from over_time import Custom, compare, gradients, make_net, make_x, spiking
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastlif
from fastlif.models import ConvNet


class Unknown(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


def frozen_without_statistics():
    return nn.BatchNorm1d(6, track_running_stats=False).eval()


@pytest.mark.parametrize(
    ("part", "message"),
    (
        (nn.BatchNorm1d(6), r"0\.module\.1 \(BatchNorm1d\): batch norm in training mode .* how time is split"),
        (fastlif.nn.BatchNormLIF(6), r"0\.module\.1 \(BatchNormLIF\): batch norm in training mode"),
        (frozen_without_statistics(), r"0\.module\.1 \(BatchNorm1d\): without running statistics"),
        (nn.InstanceNorm1d(6, track_running_stats=True), r"0\.module\.1 .*updated twice"),
        (nn.LSTM(6, 6), r"0\.module\.1 \(LSTM\): not known to work step by step.*checkpoint_time_safe = True"),
        (Unknown(nn.Identity()), r"0\.module\.1 \(Unknown\): not known"),
        (nn.Softmax(0), r"0\.module\.1 \(Softmax\): not known"),
        (fastlif.LIF(truncate=(3, 2)), r"0\.module\.1 \(LIF\): truncate=\(3, 2\) .* multiple of 3, got 4"),
        (torch.compile(nn.Linear(6, 6), backend="eager"), r"0\.module\.1 \(OptimizedModule\): it is compiled"),
    ),
)
def test_refuses_by_name(part, message):
    net, x = make_net(), make_x(9, 3, 5)
    net[0].module[1] = part
    ran = []
    net[0].register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match=message):
        fastlif.checkpoint_time(net, x, steps=4)
    assert not ran


def test_refuses_all_at_once_and_a_module_compiled_in_place():
    compiled = nn.Linear(5, 5)
    compiled.compile(backend="eager")
    net = nn.Sequential(nn.BatchNorm1d(3), compiled, nn.LSTM(5, 5))
    with pytest.raises(ValueError, match=r"(?s)0 \(BatchNorm1d\).*1 \(Linear\): it is compiled.*2 \(LSTM\)"):
        fastlif.checkpoint_time(net, make_x(9, 3, 5))
    with pytest.raises(ValueError, match=r"the module itself \(LSTM\)"):
        fastlif.checkpoint_time(nn.LSTM(5, 5), make_x(9, 3, 5))


def test_a_class_declares_itself_and_passes_it_on_with_its_forward():
    class Child(Custom):
        pass

    class Other(Custom):
        def forward(self, x):
            return x.flip(0)

    x = make_x(9, 2, 5)
    for cls in (Custom, Child):
        compare(cls(lambda self, x: self.layer(x * 2) + 1), x, 4, 1e-12)
    with pytest.raises(ValueError, match="Other"):
        fastlif.checkpoint_time(Other(None), x)
    with pytest.raises(ValueError, match=r"layer \(BatchNorm1d\)"):
        fastlif.checkpoint_time(Custom(None, nn.BatchNorm1d(2)), x)


@pytest.mark.parametrize(
    ("body", "message"),
    (
        (lambda self, x: self.layer(self.layer(x)), "layer runs twice"),
        (lambda self, x: fastlif.reset_state(self) and self.layer(x), "resets .* the membrane of layer"),
        (lambda self, x: (self.layer(x), fastlif.reset_state(self))[0], "resets .* the membrane of layer"),
        (lambda self, x: self.layer(x)[1:], r"one output \[T, ...\], got \[3, 2, 5\] for a window of 4 steps"),
        (lambda self, x: (self.layer(x), self.layer.v), "one output .* got tuple"),
        (lambda self, x: self.layer(x)[..., : len(x)], "a later window"),
        (lambda self, x: self.layer(x.mul_(2)), "changes x in place"),
        (lambda self, x: self.layer(x) + self.count.add_(1), "count changes while the module runs"),
        (lambda self, x: self.layer(x, 1, 2), "argument"),
    ),
)
@pytest.mark.parametrize("carry_state", (False, True))
def test_errors_inside_leave_the_layers_as_they_were(body, message, carry_state):
    net = Custom(body, fastlif.LIF(carry_state=carry_state))
    net.register_buffer("count", torch.zeros(1))
    v = net.layer.v = torch.ones(2, 5) if carry_state else None
    with pytest.raises((RuntimeError, TypeError), match=message):
        fastlif.checkpoint_time(net, torch.randn(9, 2, 5), steps=4)
    assert net.layer.v is v and net.layer.carry_state is carry_state
    assert not net.layer._forward_hooks and not net.layer._forward_pre_hooks


def test_an_error_in_backward_leaves_the_layers_as_they_were():
    def body(self, x):
        if torch.is_grad_enabled() and self.fails:
            raise KeyError("in the second run")
        return self.layer(x)

    net, x = Custom(body, fastlif.LIF(learn_decay=True)).train(), make_x(9, 2, 5)
    net.fails = True
    parameter = net.layer.decay_logit
    y = fastlif.checkpoint_time(net, x, steps=4)
    net.eval()
    with pytest.raises(KeyError):
        y.sum().backward(retain_graph=True)
    assert net.layer.v is None and not net.layer.carry_state and not net.layer._forward_hooks
    assert net.layer.decay_logit is parameter and not net.layer.training
    net.fails = False
    y.sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("name", ("weight_norm", "orthogonal", "spectral_norm"))
def test_parametrizations_act_on_weights_alone(name):
    net, x = make_net(), make_x(9, 3, 5)
    getattr(parametrizations, name)(net[2].module)
    if name == "spectral_norm":
        with pytest.raises(ValueError, match=r"weight\.0 \(_SpectralNorm\): .* freeze it with .eval\(\)"):
            fastlif.checkpoint_time(net, x, steps=4)
        net.eval()
    compare(net, x, 4, 1e-12)
    with parametrize.cached(), pytest.raises(ValueError, match="run this outside of it"):
        fastlif.checkpoint_time(net, x, steps=4)


def test_parametrizations_that_nobody_knows_declare_themselves():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    net, x = make_net(), make_x(9, 3, 5)
    parametrize.register_parametrization(net[2].module, "weight", Twice())
    with pytest.raises(ValueError, match=r"weight\.0 \(Twice\): not known .* checkpoint_time_safe = True in its class"):
        fastlif.checkpoint_time(net, x, steps=4)
    Twice.checkpoint_time_safe = True
    compare(net, x, 4, 1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    (
        ((torch.relu, torch.zeros(2, 3)), TypeError, "module must be"),
        ((nn.ReLU(), [1.0]), TypeError, "x must be a tensor"),
        ((nn.ReLU(), torch.tensor(1.0)), ValueError, "x must have a time axis"),
        ((nn.ReLU(), torch.zeros(2, 3), 0), ValueError, "steps must be at least 1, got 0"),
        ((nn.ReLU(), torch.zeros(2, 3), 2.0), TypeError, "steps must be an integer"),
        ((nn.ReLU(), torch.zeros(2, 3), True), TypeError, "steps must be an integer"),
    ),
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fastlif.checkpoint_time(*arguments)


def test_double_backward_is_refused():
    x = make_x(9, 2, 5)
    y = fastlif.checkpoint_time(spiking(torch.float64), x)
    with pytest.raises(RuntimeError, match="checkpoint_time is differentiable once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("change", ("x", "parameter", "buffer", "frozen", "replaced"))
def test_what_backward_reads_must_not_change(change):
    net, x = ConvNet((2, 4, 4), 3, layers=(4,)).eval(), torch.rand(6, 2, 2, 4, 4)
    conv, norm = net.stages[0].module
    norm.bias.requires_grad_(False)
    y = fastlif.checkpoint_time(net, x, steps=2)
    with torch.no_grad():
        if change == "replaced":
            norm.running_mean = torch.ones(4)
        else:
            {"x": x, "parameter": conv.weight, "buffer": norm.running_mean, "frozen": norm.bias}[change].add_(1)
    names = {"buffer": "running_mean was changed after", "frozen": "bias was changed", "replaced": "running_mean was"}
    with pytest.raises(RuntimeError, match=names.get(change, "inplace operation")):
        y.sum().backward()


def test_the_mode_is_that_of_forward():
    net, x = nn.Sequential(nn.BatchNorm1d(3), fastlif.LIF(0.9, 0.2)).double().eval(), make_x(9, 3, 5)
    whole, y = net(x), fastlif.checkpoint_time(net, x, steps=4)
    net.train()
    g = torch.randn_like(y)
    (got,), (want,) = gradients(y, g, x), gradients(whole, g, x)
    assert norm_error(got, want) <= 1e-12 and net[0].training and not net[0].num_batches_tracked
