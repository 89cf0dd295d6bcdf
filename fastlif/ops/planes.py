"""The operators fastlif::pack_spikes and unpack_spikes: spikes into planes of bits and back, on any device."""

from math import prod

import torch

from . import native
from .reference import pack, unpack

library = torch.library.Library("fastlif", "FRAGMENT")
library.define(
    "pack_spikes(Tensor x, SymInt rows=1) -> Tensor",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)
library.define(
    "unpack_spikes(Tensor plane, SymInt[] size, SymInt[] stride, ScalarType dtype, Tensor? after=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def allocate_pack(x, rows=1):
    return x.new_empty((rows, (x.numel() // rows + 7) // 8 if rows != 0 else 0), dtype=torch.uint8)


def pack_spikes(x, rows=1):
    """Dense x, 0 or not, in the order of memory as `rows` rows of N -> uint8 [rows, ceil(N / 8)].

    Neuron n of a row is bit n % 8 of its byte n // 8.
    """
    plane = allocate_pack(x, rows)
    if x.numel() == 0:
        return plane
    values = x.as_strided((rows, x.numel() // rows), (x.numel() // rows, 1))
    if native.serves(x.device):
        torch.ops.fastlif.pack_bits(values, plane)
    else:
        plane.copy_(pack(values != 0))
    return plane


def allocate_unpack(plane, size, stride, dtype, after=None):
    return plane.new_empty_strided(size, stride, dtype=dtype)


def unpack_spikes(plane, size, stride, dtype, after=None):
    """The inverse: zeros and ones with dense memory of `size` and `stride`.

    `after` is not read. As a gradient it keeps a compiler from unpacking in the forward pass, and keeping the result.
    """
    x = allocate_unpack(plane, size, stride, dtype)
    if x.numel() == 0:
        return x
    rows, neurons = plane.shape[0], prod(size) // plane.shape[0]
    values = x.as_strided((rows, neurons), (neurons, 1))
    if native.serves(plane.device):
        torch.ops.fastlif.unpack_bits(plane, values)
    else:
        values.copy_(unpack(plane, neurons))
    return x


library.impl("pack_spikes", pack_spikes, "CompositeExplicitAutograd")
library.impl("unpack_spikes", unpack_spikes, "CompositeExplicitAutograd")
torch.library.register_fake("fastlif::pack_spikes", allocate_pack, lib=library)
torch.library.register_fake("fastlif::unpack_spikes", allocate_unpack, lib=library)
