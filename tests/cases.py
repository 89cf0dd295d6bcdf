"""The one table of cases that pins all backends, and how a case is run and compared."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

import fastlif
from fastlif.surrogate import BY_NAME

SURROGATES = (
    ("triangle", 1.0),
    ("triangle", 0.75, 0.4),
    ("rectangle", 1.5),
    ("pass_through", 0.8),
    ("sigmoid", 4.0),
    ("atan", 2.0),
    ("fast_sigmoid", 5.0),
)
RESETS = (
    {"reset": "soft"},
    {"reset": "soft", "reset_delay": True},
    {"reset": "hard", "v_reset": 0.25},
    {"reset": "none"},
)
LAYOUTS = ("contiguous", "channels_last", "transposed", "expanded", "sliced_time", "sliced_space", "batch_first")
GRADIENTS = ("plain", "expanded", "transposed", "spikes", "membrane")


@dataclass(frozen=True)
class Case:
    """One call of fastlif.lif and of its gradient."""

    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (9, 2, 3, 5)  # [T, B, C, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    learned: str = "none"  # decay, gain and threshold: "none", "scalar", "channel", or "each" of its own for a neuron
    v0: bool = True
    gradient: str = "plain"  # what reaches the outputs
    autocast: torch.dtype | None = None
    grid: bool = False  # x on multiples of 1/4, so that membranes meet the threshold and the window's edge exactly

    def __str__(self):
        parts = [f"{k}={v}" for k, v in self.options.items()]
        for name in ("shape", "dtype", "layout", "learned", "gradient", "autocast"):
            value = getattr(self, name)
            if value != Case.__dataclass_fields__[name].default:
                parts.append("x".join(map(str, value)) if name == "shape" else str(value).removeprefix("torch."))
        return "-".join(parts + ([] if self.v0 else ["no_v0"]) + (["grid"] if self.grid else [])) or "default"


def all_options():
    """Every reset with its variants, crossed with every surrogate; the other options take turns."""
    turns = ((t, e) for _ in iter(int, 1) for t, e in product((None, 4, (4, 2)), (True, False)))
    for reset, detach, surrogate in product(RESETS, (False, True), SURROGATES):
        if reset["reset"] == "none" and detach:
            continue
        truncate, fire_on_equal = next(turns)
        amount = {} if surrogate[0] in ("triangle", "sigmoid", "atan") else {"reset_amount": 0.7}
        yield dict(
            **reset, **amount, detach_reset=detach, surrogate=surrogate, truncate=truncate, fire_on_equal=fire_on_equal
        )


SOFT = {"surrogate": ("rectangle", 1.5)}
HARD = {"reset": "hard", "v_reset": -0.1}
DELAYED = {"reset_delay": True, "surrogate": ("atan", 2.0)}
COMPACT = {"state": "compact"}
FORMATS = (
    SOFT,
    HARD,
    DELAYED,
    COMPACT,
    {**HARD, **COMPACT},
    {**SOFT, **HARD, **COMPACT},
)  # every kept format, by turns
SHAPES = (
    (0, 3), (1,), (17,), (5, 0, 3), (1, 1), (1, 7), (2, 8), (16, 13), (17, 1, 31), (33, 2, 3, 5), (3, 40_003),
    (2, 2, 20_011), (1000, 5),
)  # fmt: skip
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

CASES = [
    *(Case(o, grid=True) for o in all_options()),
    *(Case(o, learned="channel") for o in all_options()),
    *(
        Case({**o, **COMPACT}, shape=(19, 3, 11))
        for o in all_options()
        if o["surrogate"][0] in ("triangle", "rectangle")
    ),
    *(Case(o, shape=s, v0=i % 2 == 0) for s in SHAPES for i, o in enumerate(FORMATS)),
    *(Case(o, shape=(17, 6, 7), learned=k) for o in (SOFT, HARD, DELAYED) for k in ("scalar", "each")),
    *(Case(o, (18, 2, 6, 4, 5), d, layout=k) for k in LAYOUTS for o, d in zip(FORMATS, DTYPES * 2, strict=False)),
    *(Case(o, (6, 2, 6, 4, 5), layout=k, learned="channel") for k in LAYOUTS for o in (HARD, DELAYED)),
    *(Case(o, (18, 4, 3, 9), d, gradient=k) for k in GRADIENTS for o, d in zip(FORMATS, DTYPES * 2, strict=False)),
    *(Case(o, (7, 5, 3), d, autocast=a) for o in (SOFT, HARD) for d in DTYPES for a in DTYPES[2:]),
    *(
        Case({**o, "truncate": k}, (40, 7))
        for o in FORMATS
        for k in (1, 16, 17, 64, (7, 3), (40, 20), (19, 18), (100, 5))
    ),
]


def make_x(case: Case, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """(leaf, x): x is a view of the leaf in case.layout."""
    shape = list(case.shape)
    last = len(shape) - 1

    def randn(*size, **kwargs):
        values = torch.randn(*size, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.4
        values = (values * 4).round() / 4 if case.grid else values
        return values.to(device, case.dtype).contiguous(**kwargs).requires_grad_()

    match case.layout:
        case "channels_last":
            leaf = randn(shape[0] * shape[1], *shape[2:], memory_format=torch.channels_last)
            return leaf, leaf.unflatten(0, shape[:2])
        case "transposed":
            leaf = randn(*shape[:1], *shape[:0:-1])
            return leaf, leaf.permute(0, *range(last, 0, -1))
        case "expanded":
            leaf = randn(*shape[1:])
            return leaf, leaf.expand(shape)
        case "sliced_time":
            leaf = randn(2 * shape[0], *shape[1:])
            return leaf, leaf[1::2]
        case "sliced_space":
            leaf = randn(*shape[:-1], 2 * shape[-1])
            return leaf, leaf[..., ::2]
        case "batch_first":
            leaf = randn(shape[1], shape[0], *shape[2:])
            return leaf, leaf.transpose(0, 1)
    leaf = randn(*shape)
    return leaf, leaf.view(shape)


def make_params(case: Case, device="cpu") -> dict[str, torch.Tensor]:
    """decay, gain and threshold as leaves, or nothing."""
    step = case.shape[1:]
    size = {
        "none": None,
        "scalar": (),
        "channel": (step[1], *(1,) * (len(step) - 2)) if len(step) > 1 else step,
        "each": step,
    }[case.learned]
    if size is None:
        return {}
    compute = torch.float64 if case.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(2)
    low_high = {"decay": (0.3, 0.95), "gain": (0.5, 1.5), "threshold": (0.6, 1.2)}
    return {
        name: (torch.rand(size, generator=generator) * (high - low) + low).to(device, compute).requires_grad_()
        for name, (low, high) in low_high.items()
    }


def arriving(case: Case, like: torch.Tensor, seed: int) -> torch.Tensor:
    """A gradient for `like` in the strides of case.gradient."""
    if case.gradient == "expanded":
        return torch.full((), 0.5, dtype=like.dtype, device=like.device).expand(like.shape)
    g = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device, like.dtype)
    if case.gradient == "transposed" and like.dim() > 1:
        return g.transpose(0, -1).contiguous().transpose(0, -1)
    return g


def run(case: Case, backend: str | None, device="cpu", copy: bool = False) -> dict[str, torch.Tensor]:
    """Every output and gradient of the case, by name; copy=True runs a contiguous copy of its x."""
    leaf, x = make_x(case, device)
    x = x.contiguous() if copy else x
    params = make_params(case, device)
    compute = torch.float64 if case.dtype == torch.float64 else torch.float32
    inputs = {"leaf": leaf, "x": x, **params}
    v0 = None
    if case.v0:
        generator = torch.Generator().manual_seed(3)
        v0 = torch.randn(case.shape[1:], generator=generator).to(device, compute).requires_grad_()
        inputs["v0"] = v0
    options = dict(case.options)
    if "surrogate" in options:
        name, *numbers = options["surrogate"]
        options["surrogate"] = BY_NAME[name](*numbers)
    with torch.autocast(device, case.autocast, enabled=case.autocast is not None):
        spikes, v = fastlif.lif(x, v0, **params, **options, backend=backend)
    outputs = {"spikes": (spikes, arriving(case, spikes, 4)), "v": (v, arriving(case, v, 5))}
    if case.gradient == "membrane":
        del outputs["spikes"]
    if case.gradient == "spikes":
        del outputs["v"]
    found, arrived = zip(*outputs.values(), strict=True)
    grads = torch.autograd.grad(found, list(inputs.values()), arrived, allow_unused=True)
    named = {f"d{name}": g for name, g in zip(inputs, grads, strict=True) if g is not None}
    return {"spikes": spikes.detach(), "v": v.detach(), **named}


def norm_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference over the norm of `want`, in float64."""
    got, want = got.double(), want.double()
    if got.equal(want):
        return 0.0
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Same names, dtypes and bits; gradients may differ by `tolerance` (norm of the difference over norm)."""
    assert got.keys() == want.keys()
    for name in want:
        a, b = got[name].cpu(), want[name].cpu()
        assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride(), name
        if name in ("spikes", "v") or tolerance == 0:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert norm_error(a, b) <= tolerance, (name, norm_error(a, b))


def tolerance(case: Case) -> float:
    """Backends differ in exp alone, and where that rounds a gradient of 16 bits to its neighbour."""
    surrogate = case.options.get("surrogate", ("triangle",))
    return max(1e-6, torch.finfo(case.dtype).eps * (case.dtype.itemsize < 4)) if surrogate[0] == "sigmoid" else 0.0
