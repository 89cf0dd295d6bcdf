"""What is known of a tensor's values: that they are spikes, or counts of spikes, and how few bits restore them exactly.

Knowledge is an attribute of the storage: views share it, and it goes when the storage goes, so that no reused address
can inherit it. For a graph that Dynamo traces it belongs to the tracer (functions `traced_*`, which Dynamo runs as they
are): fake tensors tell it of views and of changes in place, and what enters a graph is unknown there.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..ops import planes  # noqa: F401 registers the operators

TELLS_EXPORT = torch.__version__ >= (2, 12)  # before, Dynamo took every compilation for an export


class Kind(NamedTuple):
    """Every value is n / divisor for a whole n of 0 ... limit."""

    limit: int
    divisor: int

    @property
    def fits(self) -> bool:
        """Whether a byte holds n."""
        return self.limit <= 255

    @property
    def power_of_two(self) -> bool:
        """Whether sums and quotients of the values are exact, and division is multiplication."""
        return self.divisor & (self.divisor - 1) == 0


SPIKES = Kind(1, 1)


@dataclass
class Knowledge:
    """Of one storage, filled by one dense tensor; void once the tensor's version has moved on.

    In a graph that Dynamo traces `kind` and `codes` are its variables.
    """

    kind: Kind
    dtype: torch.dtype
    version: int
    codes: torch.Tensor | None


class Recipe(NamedTuple):
    """How codes become the tensor again: a view of dense memory of `numel` values."""

    kind: Kind
    dtype: torch.dtype
    numel: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def remember(x: torch.Tensor, kind: Kind = SPIKES, plane: torch.Tensor | None = None) -> torch.Tensor:
    """Note that x, the fresh output of an operator, has values of `kind`. Returns x.

    Its codes are `plane`, uint8 [rows, ceil(N / 8)] as `pack_spikes` makes them, or made when first asked for.
    """
    if (TELLS_EXPORT and torch.compiler.is_exporting()) or torch.jit.is_tracing():
        return x  # a program for inference
    if not kind.fits or not ordinary(x):
        return x
    if torch.compiler.is_compiling():
        torch._dynamo.comptime.comptime(traced_remember)
    elif not x.is_inference():
        storage = x.untyped_storage()
        if storage.nbytes() == x.numel() * x.itemsize:
            storage._fastlif = Knowledge(kind, x.dtype, x._version, plane)
    return x


def known(x: torch.Tensor) -> Kind | None:
    """The kind of x's values, if x or what it is a view of was remembered and has not been changed since."""
    if torch.compiler.is_compiling():
        return _traced(x)[0]
    found = _knowledge(x)
    return None if found is None else found.kind


def ordinary(x: object) -> bool:
    """Whether x is a tensor without a meaning of its own, or, when planning, what stands for one."""
    return type(x) in (torch.Tensor, FakeTensor)


def traced_remember(context) -> None:
    """Note what `remember` has in its locals x, kind and plane, in a graph that Dynamo traces."""
    tracer, x, base = _in_graph(context)
    if base is not None:
        kind, plane = (
            context.get_local(name)._i_will_not_complain_if_bc_breaks_VariableTracker() for name in ("kind", "plane")
        )
        vars(tracer).setdefault("_fastlif", {})[base] = Knowledge(kind, x.dtype, x._version, plane)


def traced_known(context) -> None:
    """Set the locals kind and codes to what is known of the local x, in a graph that Dynamo traces."""
    tracer, x, base = _in_graph(context)
    found = vars(tracer).get("_fastlif", {}).get(base)
    if found is not None and found.version == x._version and found.dtype == x.dtype:
        frame = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
        frame.symbolic_locals.update(kind=found.kind, codes=found.codes)


def _in_graph(context):
    """(tracer, fake tensor for the local x, fake tensor in all of whose memory it lies, or None).

    What checkpoint() and others run has a tracer of its own.
    """
    tracer = context._i_will_not_complain_if_bc_breaks_InstructionTranslator().output.current_tracer
    x = context.get_local("x").as_fake()
    if x.layout != torch.strided or x.is_inference():
        return tracer, x, None
    base = x if x._base is None else x._base
    whole = statically_known_true(x.numel() == base.numel()) and is_non_overlapping_and_dense_or_false(x)
    return tracer, x, base if whole else None


def _traced(x):
    """(kind, codes) of x in a graph that Dynamo traces, None where unknown."""
    kind = codes = None
    if ordinary(x):
        torch._dynamo.comptime.comptime(traced_known)
    return kind, codes


def _knowledge(x: torch.Tensor) -> Knowledge | None:
    if not ordinary(x) or x.layout != torch.strided or x.is_inference():
        return None
    try:
        found = getattr(x.untyped_storage(), "_fastlif", None)
    except (NotImplementedError, RuntimeError):  # a tensor without storage, as under functorch
        return None
    if found is None or found.version != x._version or found.dtype != x.dtype:
        return None
    return found


def encode(x: torch.Tensor) -> tuple[torch.Tensor, Recipe]:
    """(codes, recipe) of a known x: made once for all that ask, and shared."""
    size, stride = tuple(x.shape), tuple(x.stride())
    if torch.compiler.is_compiling():
        kind, codes = _traced(x)
        if codes is None:
            codes = _pack(x.detach(), kind)
        return codes, Recipe(kind, x.dtype, x.numel(), size, stride, -1)
    found = _knowledge(x)
    numel = x.untyped_storage().nbytes() // x.itemsize
    if found.codes is None:
        found.codes = _pack(x.detach().as_strided((numel,), (1,), 0), found.kind)
    return found.codes, Recipe(found.kind, x.dtype, numel, size, stride, x.storage_offset())


def _pack(x: torch.Tensor, kind: Kind) -> torch.Tensor:
    if kind == SPIKES:
        return torch.ops.fastlif.pack_spikes(x)
    return (x if kind.divisor == 1 else x * kind.divisor).round().to(torch.uint8)


def decode(codes: torch.Tensor, recipe: Recipe, after: torch.Tensor | None = None) -> torch.Tensor:
    """The tensor again, bit for bit; in backward not before the gradient `after` is there."""
    kind, dtype, numel, size, stride, offset = recipe
    whole = offset < 0
    if kind == SPIKES:
        memory = (size, stride) if whole else ((numel,), (1,))
        x = torch.ops.fastlif.unpack_spikes(codes, *memory, dtype, after)
    else:
        x = codes.to(dtype)
        x = x if kind.divisor == 1 else x / kind.divisor
    if whole:
        return x
    full = x
    x = full.as_strided(size, stride, offset)
    remember(full, kind, codes)
    return x
