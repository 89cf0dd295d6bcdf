"""Bad input: one exception that names the argument, what was given and what is allowed, before anything is changed."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch.autograd import forward_ad

import fastlif
from fastlif import BatchNormLIF
from fastlif.memory import saved_bytes

X = torch.ones(5, 3, 4)


def given(*words):
    """A pattern that asks for every word, in this order."""
    return r"(?s)" + ".*".join(words)


CALLS = {
    # x
    "x-list": (TypeError, {"x": [1.0]}, given("x must be a tensor", r"\[T, \.\.\.\]", "list")),
    "x-no-time": (ValueError, {"x": torch.ones(())}, given("x must have a time axis", r"\[T, \.\.\.\]")),
    "x-integer": (TypeError, {"x": X.int()}, given("x must be float64, float32, bfloat16 or float16", "torch.int32")),
    "x-bool": (TypeError, {"x": X.bool()}, given("x must be float64", "torch.bool")),
    "x-complex": (TypeError, {"x": X.cfloat()}, given("x must be float64", "torch.complex64")),
    "x-sparse": (TypeError, {"x": X.to_sparse()}, given("x must be a dense", "sparse_coo")),
    # v0
    "v0-list": (TypeError, {"v0": [0.0]}, given("v0 must be a tensor", "list")),
    "v0-shape": (ValueError, {"v0": torch.ones(4)}, given("v0 must have the shape", r"\[3, 4\]", r"got \[4\]")),
    "v0-dtype": (TypeError, {"v0": X[0].half()}, given("v0 must be torch.float32", "got torch.float16")),
    "v0-double": (TypeError, {"x": X.double(), "v0": X[0]}, given("v0 must be torch.float64", "got torch.float32")),
    "v0-device": (ValueError, {"v0": X[0].to("meta")}, given("v0 must be on x's device, cpu", "got meta")),
    "v0-sparse": (TypeError, {"v0": X[0].to_sparse()}, given("v0 must be a dense", "sparse_coo")),
    # numbers
    "decay-above": (ValueError, {"decay": 1.5}, given("decay", r"finite and in \[0, 1\]", "got 1.5")),
    "decay-below": (ValueError, {"decay": -0.1}, given("decay", r"\[0, 1\]", "got -0.1")),
    "decay-nan": (ValueError, {"decay": float("nan")}, given("decay must be finite", "nan")),
    "decay-text": (TypeError, {"decay": "0.5"}, given("decay must be a number", "str")),
    "threshold-inf": (ValueError, {"threshold": float("inf")}, given("threshold must be finite", "inf")),
    "threshold-none": (TypeError, {"threshold": None}, given("threshold must be a number or a tensor", "None")),
    "decay-none": (TypeError, {"decay": None}, given("decay must be a number or a tensor", "None")),
    "threshold-bool": (TypeError, {"threshold": True}, given("threshold must be a number", "bool")),
    "gain-list": (TypeError, {"gain": [1.0]}, given("gain must be a number", "list")),
    "bias-nan": (ValueError, {"bias": float("nan")}, given("bias must be finite", "nan")),
    "bias-tensor": (TypeError, {"bias": torch.ones(())}, given("bias must be a number", "Tensor")),
    "v_reset-inf": (ValueError, {"v_reset": float("-inf")}, given("v_reset must be finite", "-inf")),
    "reset_amount-text": (TypeError, {"reset_amount": "1"}, given("reset_amount must be a number", "str")),
    # tensors
    "decay-shape": (ValueError, {"decay": torch.rand(3)}, given("decay must broadcast", r"\[3, 4\]", r"got \[3\]")),
    "threshold-dims": (
        ValueError,
        {"threshold": torch.rand(5, 3, 4)},
        given("threshold must broadcast", r"\[5, 3, 4\]"),
    ),
    "gain-integer": (TypeError, {"gain": torch.ones((), dtype=torch.int64)}, given("gain must be", "torch.int64")),
    "decay-complex": (TypeError, {"decay": torch.ones((), dtype=torch.cfloat)}, given("decay must be", "complex64")),
    "decay-device": (
        ValueError,
        {"decay": torch.ones((), device="meta")},
        given("decay must be on x's device", "meta"),
    ),
    # names
    "reset": (ValueError, {"reset": "sofd"}, given("unknown reset 'sofd'", "'soft', 'hard', 'none'", "mean 'soft'")),
    "surrogate": (
        ValueError,
        {"surrogate": "sigmiod"},
        given("unknown surrogate 'sigmiod'", "'atan'", "mean 'sigmoid'"),
    ),
    "surrogate-list": (ValueError, {"surrogate": ["atan"]}, given("unknown surrogate", "allowed", "'atan'")),
    "state": (
        ValueError,
        {"state": "compat"},
        given("unknown state 'compat'", "'exact', 'compact'", "mean 'compact'"),
    ),
    "backend": (ValueError, {"backend": "tritn"}, given("unknown backend 'tritn'", "'cpu'", "mean 'triton'")),
    "backend-far": (
        ValueError,
        {"backend": "zzz"},
        given("unknown backend 'zzz'", "'reference', 'cpu', 'cuda', 'triton'"),
    ),
    "backend-cuda": (RuntimeError, {"backend": "cuda"}, given("backend 'cuda' cannot run", "cuda", "got", "cpu")),
    # choices
    "delay-hard": (ValueError, {"reset": "hard", "reset_delay": True}, given("reset_delay", "reset='soft'", "'hard'")),
    "delay-none": (ValueError, {"reset": "none", "reset_delay": True}, given("reset_delay", "reset='soft'", "'none'")),
    "flag": (TypeError, {"fire_on_equal": "no"}, given("fire_on_equal must be True or False", "'no'")),
    "truncate-0": (ValueError, {"truncate": 0}, given("truncate must satisfy 1 <= k2 <= k1", "got 0")),
    "truncate-negative": (ValueError, {"truncate": (4, -1)}, given("truncate", "1 <= k2 <= k1", r"\(4, -1\)")),
    "truncate-order": (ValueError, {"truncate": (2, 3)}, given("truncate", "1 <= k2 <= k1", r"\(2, 3\)")),
    "truncate-float": (TypeError, {"truncate": 2.0}, given("truncate", r"\(k1, k2\)", "2.0")),
    "truncate-huge": (ValueError, {"truncate": 2**64}, given("truncate", r"2\*\*62", str(2**64))),
    "threshold-huge": (ValueError, {"threshold": 10**400}, given("threshold must be finite", "1000")),
    "truncate-three": (TypeError, {"truncate": (3, 2, 1)}, given("truncate", r"\(k1, k2\)", r"\(3, 2, 1\)")),
    "compact-atan": (
        ValueError,
        {"x": X.clone().requires_grad_(), "state": "compact", "surrogate": "atan"},
        given("state='compact'", "triangle, rectangle", "'atan'", "state='exact'"),
    ),
    "compact-decay": (
        ValueError,
        {"decay": torch.tensor(0.5, requires_grad=True), "state": "compact", "surrogate": "sigmoid"},
        given("state='compact'", "'sigmoid'", "decay and gain", "state='exact'"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_call(name):
    kind, arguments, pattern = CALLS[name]
    with pytest.raises(kind, match=pattern) as raised:
        fastlif.lif(**{"x": X, **arguments})
    assert type(raised.value) is kind and raised.value.__cause__ is None and raised.value.__context__ is None
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("value", (0, -1.0, float("nan"), float("inf"), "1", True, None))
@pytest.mark.parametrize(
    ("surrogate", "argument"),
    [
        (fastlif.Triangle, "width"),
        (fastlif.Triangle, "height"),
        (fastlif.Rectangle, "width"),
        (fastlif.PassThrough, "height"),
        (fastlif.Sigmoid, "alpha"),
        (fastlif.ATan, "alpha"),
        (fastlif.FastSigmoid, "slope"),
    ],
)
def test_surrogates(surrogate, argument, value):
    if surrogate is fastlif.Triangle and argument == "height" and value is None:
        return
    with pytest.raises(ValueError, match=rf"{surrogate.__name__}\({argument}=.*positive finite number, got {value!r}"):
        surrogate(**{argument: value})


LAYERS = {
    "decay": (ValueError, lambda: fastlif.LIF(2.0), given("decay", r"\[0, 1\]", "2.0")),
    "reset": (ValueError, lambda: fastlif.LIF(reset="subtract"), given("unknown reset 'subtract'", "'soft'")),
    "logit": (ValueError, lambda: fastlif.LIF(1.0, learn_decay=True), given("learn_decay", r"\(0, 1\)", "1.0")),
    "compact": (ValueError, lambda: fastlif.LIF(learn_decay=True, state="compact"), given("compact", "learn_decay")),
    "decay-none": (TypeError, lambda: fastlif.LIF(None)(X), given("decay must be a number or a tensor", "None")),
    "threshold-none": (TypeError, lambda: fastlif.LIF(0.5, None)(X), given("threshold must be a number", "None")),
    "channels": (ValueError, lambda: fastlif.LIF(channels=3), given("channels", "learn_decay or learn_threshold")),
    "if": (TypeError, lambda: fastlif.IF(decay=0.5), given("IF has no decay", "LIF")),
    "per_step": (ValueError, lambda: fastlif.PerStep(), given("PerStep needs a module")),
    "per_step-x": (
        ValueError,
        lambda: fastlif.PerStep(torch.nn.ReLU())(torch.ones(3)),
        given("PerStep needs x", r"\[3\]"),
    ),
    "wrong-channels": (
        ValueError,
        lambda: fastlif.LIF(learn_threshold=True, channels=5)(X),
        given("threshold must broadcast", r"\[3, 4\]", r"\[5\]"),
    ),
    "channels-text": (
        TypeError,
        lambda: fastlif.LIF(learn_decay=True, channels="4"),
        given("channels must be a positive integer or None", "got '4'"),
    ),
    "channels-bool": (TypeError, lambda: fastlif.LIF(learn_decay=True, channels=True), given("channels", "got True")),
    "channels-0": (ValueError, lambda: fastlif.LIF(learn_decay=True, channels=0), given("channels", "got 0")),
    "learn-none": (TypeError, lambda: fastlif.LIF(None, learn_decay=True), given("decay must be a number", "NoneType")),
    "learn-threshold-none": (
        TypeError,
        lambda: fastlif.LIF(0.5, None, learn_threshold=True),
        given("threshold must be a number", "NoneType"),
    ),
    "x-list": (TypeError, lambda: fastlif.LIF()([1.0]), given("x must be a tensor", "list")),
    "x-list-channels": (
        TypeError,
        lambda: fastlif.LIF(learn_decay=True, channels=4)([1.0]),
        given("x must be a tensor", "list"),
    ),
    "x-list-norm": (
        TypeError,
        lambda: BatchNormLIF(4, alpha=1.0, affine=False)([1.0]),
        given("x must be a tensor", "list"),
    ),
    "backend": (ValueError, lambda: fastlif.LIF(backend="cudua"), given("unknown backend 'cudua'", "mean 'cuda'")),
    "backend-li": (ValueError, lambda: fastlif.LI(backend="zzz"), given("unknown backend 'zzz'", "'reference', 'cpu'")),
    "backend-list": (ValueError, lambda: fastlif.LIF(backend=["cpu"]), given(r"unknown backend \['cpu'\]", "'cpu'")),
    "norm-channels": (TypeError, lambda: BatchNormLIF(2.0), given("channels must be a positive integer, got 2.0")),
    "norm-eps": (ValueError, lambda: BatchNormLIF(4, eps=-1e-5), given("eps", "got -1e-05")),
    "norm-eps-nan": (ValueError, lambda: BatchNormLIF(4, eps=float("nan")), given("eps must be finite", "nan")),
    "norm-eps-none": (TypeError, lambda: BatchNormLIF(4, eps=None), given("eps must be a number", "NoneType")),
    "norm-momentum": (ValueError, lambda: BatchNormLIF(4, momentum=1.5), given("momentum", r"\[0, 1\]", "got 1.5")),
    "norm-momentum-text": (
        TypeError,
        lambda: BatchNormLIF(4, momentum="0.1"),
        given("momentum must be a number", "str"),
    ),
    "norm-alpha": (ValueError, lambda: BatchNormLIF(4, alpha=0), given("alpha must be None or a positive", "got 0")),
    "norm-alpha-inf": (ValueError, lambda: BatchNormLIF(4, alpha=float("inf")), given("alpha must be finite", "inf")),
    "norm-alpha-bool": (TypeError, lambda: BatchNormLIF(4, alpha=True), given("alpha must be a number", "bool")),
    "norm-compact": (
        ValueError,
        lambda: BatchNormLIF(4, state="compact"),
        given("state='compact' is not for BatchNormLIF", "leave out state"),
    ),
    "norm-state": (ValueError, lambda: BatchNormLIF(4, state="compat"), given("unknown state 'compat'", "'compact'")),
    "norm-group": (
        TypeError,
        lambda: BatchNormLIF(4, process_group="world"),
        given("process_group must be True, False or", "ProcessGroup", "got str"),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    kind, call, pattern = LAYERS[name]
    with pytest.raises(kind, match=pattern):
        call()


@pytest.mark.parametrize("layer", (fastlif.LIF(carry_state=True), fastlif.LI(carry_state=True)))
def test_another_batch_size(layer):
    layer(torch.ones(2, 3, 4))
    before = layer.v
    with pytest.raises(ValueError, match=given(r"\[3, 4\]", r"\[2, 4\]", r"fastlif\.reset_state\(net\)")):
        layer(torch.ones(2, 2, 4))
    assert layer.v is before
    fastlif.reset_state(layer)
    assert layer(torch.ones(2, 2, 4)).shape == (2, 2, 4)


@pytest.mark.parametrize("layer", (fastlif.LIF(carry_state=True), fastlif.LI(carry_state=True)))
def test_a_list_after_carried_state(layer):
    layer(torch.ones(2, 3, 4))
    with pytest.raises(TypeError, match=given("x must be a tensor", "list")):
        layer([1.0])


@pytest.mark.parametrize(
    "make",
    (
        lambda: fastlif.LIF(carry_state=True),
        lambda: fastlif.LIF(carry_state=True, learn_decay=True),
        lambda: fastlif.LI(carry_state=True),
        lambda: BatchNormLIF(4, carry_state=True),
    ),
)
def test_training_after_inference_mode(make):
    layer, x = make(), torch.randn(2, 3, 4)
    learns = any(True for _ in layer.parameters())
    with torch.inference_mode():
        layer(x)
    with torch.no_grad():
        layer(x.clone())  # no gradient: the membrane may be carried on
    with torch.inference_mode():
        fastlif.reset_state(layer)(x)
    with pytest.raises(RuntimeError, match=given("carried membrane", "inference_mode", r"fastlif\.reset_state\(net\)")):
        layer(x if learns else x.clone().requires_grad_())
    if not learns:
        assert layer(x).shape == x.shape
    fastlif.reset_state(layer)
    layer(x.requires_grad_()).sum().backward()


@pytest.mark.parametrize("momentum", (0.1, None))
def test_what_batch_norm_refuses_is_not_counted(momentum):
    layer = BatchNormLIF(4, momentum=momentum)
    for x in (torch.randn(3, 2, 5), torch.randn(3, 2), torch.randn(1, 1, 4), [1.0]):
        before = {name: p.clone() for name, p in layer.state_dict().items()}
        with pytest.raises((TypeError, ValueError)):
            layer(x)
        assert all(p.equal(before[name]) for name, p in layer.state_dict().items())
    layer(torch.randn(3, 2, 4))
    assert layer.num_batches_tracked == 1


def test_double_backward():
    x = torch.randn(5, 4, requires_grad=True)
    spikes, v = fastlif.lif(x)
    (gx,) = torch.autograd.grad(spikes.sum() + v.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=given(r"fastlif\.lif", "once", "double backward")):
        gx.sum().backward()


@pytest.mark.parametrize("name", ("x", "v0", "decay"))
def test_forward_mode(name):
    arguments = {"x": torch.randn(5, 4), "v0": torch.zeros(4), "decay": torch.tensor(0.5)}
    primal, rest = arguments.pop(name), arguments
    pattern = given(r"fastlif\.lif", "(forward-mode|jvp)")
    with pytest.raises(RuntimeError, match=pattern):
        torch.func.jvp(lambda p: fastlif.lif(**rest, **{name: p})[0], (primal,), (torch.ones_like(primal),))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=pattern):
        fastlif.lif(**rest, **{name: forward_ad.make_dual(primal, torch.ones_like(primal))})
    with forward_ad.dual_level():
        fastlif.lif(primal if name == "x" else rest["x"])  # beside dual numbers, others are welcome


@pytest.mark.parametrize("name", ("running_mean", "running_var", "weight", "bias"))
def test_forward_mode_of_batch_norm(name):
    given_ones = dict.fromkeys(("running_mean", "running_var", "weight", "bias"), torch.ones(4))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=given(r"fastlif\.lif", "forward-mode")):
        dual = forward_ad.make_dual(torch.ones(4), torch.ones(4))
        fastlif.batch_norm_lif(torch.randn(3, 2, 4), **given_ones | {name: dual})


@pytest.mark.parametrize("name", ("x", "v0", "decay"))
def test_vmap(name):
    arguments = {"x": torch.randn(5, 4), "v0": torch.zeros(4), "decay": torch.tensor(0.5)}
    several = torch.stack([arguments.pop(name)] * 3)
    with pytest.raises(RuntimeError, match=given(r"fastlif\.lif", "vmap")):
        torch.func.vmap(lambda p: fastlif.lif(**arguments, **{name: p})[0])(several)


def test_saved_bytes_runs_what_it_gets():
    with pytest.raises(TypeError):
        saved_bytes(None)


@pytest.mark.parametrize(
    "fault",
    ("ModuleNotFoundError('nothing here')", "ImportError('undefined symbol: aoti_torch')", "OSError('libtorch.so')"),
)
def test_without_the_extension(fault):
    """A missing or broken extension: fastlif imports, info says so, the reference works, a forced backend says why."""
    script = f"""
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name == "fastlif._C":
                    raise {fault}

        sys.meta_path.insert(0, Blocked())
        import torch
        import fastlif

        report = fastlif.info()
        assert "fastlif._C cannot be loaded" in report, report
        assert "backend cpu: no" in report and "backend reference: ready" in report, report
        assert "cpu tensors use: reference" in report, report
        x = torch.randn(4, 3, requires_grad=True)
        fastlif.lif(x)[0].sum().backward()
        assert x.grad.isfinite().all()
        for backend in ("cpu", "cuda"):
            try:
                fastlif.lif(x, backend=backend)
            except RuntimeError as error:
                assert f"backend {{backend!r}} cannot run this call" in str(error), error
                assert "fastlif._C cannot be loaded" in str(error) and "pip install" in str(error), error
                assert backend == "cpu" or "it needs tensors on cuda, got cpu" in str(error), error
            else:
                raise AssertionError(backend)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
