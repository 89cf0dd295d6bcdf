"""The reference backend: the operators in plain PyTorch, step by step. The specification, and every test's oracle.

Works on matrices [T, N] and vectors [N] in the order of memory; see `Call` in ops/call.py.
"""

import torch

from .call import BackwardCall, Call, ForwardCall
from .state import Chunk, Keep

LEVELS = 127  # of the 1-byte code; the last one says outside


def reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why this backend cannot run here: never."""
    return []


class Constants:
    """A neuron's numbers in the membrane's dtype: 0-dimensional, or [N] where they come as tensors."""

    def __init__(self, call: Call):
        def number(value):  # a tensor, since PyTorch divides by a number differently on a GPU
            return torch.tensor(value, dtype=call.layout.compute, device=call.device)

        values = [number(value) for value in call.values]
        self.decay, self.gain, self.bias, self.threshold, self.amount, self.v_reset, self.scale, self.height = values
        self.decay, self.gain, self.threshold = (
            own if p is None else p.per_neuron(call.layout.neurons)
            for p, own in zip(call.params, (self.decay, self.gain, self.threshold), strict=True)
        )
        if call.tied:
            self.amount = self.threshold
        self.scale_of_x, self.shift_of_x = (
            None if p is None else p.per_neuron(call.layout.neurons) for p in (call.scale, call.shift)
        )


def fire(call: Call, c: Constants, h: torch.Tensor) -> torch.Tensor:
    """Whether a neuron of membrane h spikes, [N] bool."""
    return h >= c.threshold if call.fire_on_equal else h > c.threshold


def normalize(c: Constants, x: torch.Tensor) -> torch.Tensor:
    """A step's input in the membrane's dtype, normalized where batch norm goes before."""
    x = x.to(c.bias.dtype)
    return x if c.scale_of_x is None else c.scale_of_x * x + c.shift_of_x


def charge(call: Call, c: Constants, v: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """h from the membrane and the spikes of the step before, and the input."""
    h = c.decay * v + c.gain * x + c.bias
    if call.reset == "delayed":
        h = h - torch.where(before, c.amount, 0)
    return h


def reset(call: Call, c: Constants, h: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """v from h and the spikes."""
    if call.reset == "soft":
        return h - torch.where(s, c.amount, 0)
    if call.reset == "hard":
        return torch.where(s, c.v_reset, h)
    return h


def surrogate(call: Call, c: Constants, z: torch.Tensor) -> torch.Tensor:
    """The surrogate derivative at z = h - threshold (fastlif/surrogate.py)."""
    a = z.abs()
    match call.surrogate:
        case "triangle":
            return torch.where(a < c.scale, c.height * (1 - a / c.scale), 0)
        case "rectangle":
            return torch.where(a < c.scale, c.height, 0)
        case "pass_through":
            return c.height.expand_as(z)
        case "sigmoid":
            e = torch.exp(-(c.scale * a))
            return c.height * e / ((1 + e) * (1 + e))
        case "atan":
            u = c.scale * z
            return c.height / (1 + u * u)
        case "fast_sigmoid":
            d = 1 + c.scale * a
            return c.height / (d * d)


def pack(mask: torch.Tensor) -> torch.Tensor:
    """[..., N] bool -> [..., ceil(N / 8)] uint8; neuron n is bit n % 8 of byte n // 8."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)


def unpack(plane: torch.Tensor, neurons: int) -> torch.Tensor:
    """The inverse of `pack`."""
    bits = plane.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=plane.device)
    return (bits & 1).bool().flatten(-2)[..., :neurons]


def encode(call: Call, c: Constants, h: torch.Tensor, s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One row of the state."""
    if call.keep == Keep.SPIKES:
        return pack(s)
    if call.keep == Keep.INPUT:
        return x
    a = (h - c.threshold).abs()
    if call.keep == Keep.BITS:
        return torch.cat([pack(s), pack(a < c.scale)])
    level = (a / c.scale * LEVELS).clamp(max=LEVELS - 1).nan_to_num(LEVELS).to(torch.uint8)
    return torch.where(a < c.scale, level, LEVELS) | (s.to(torch.uint8) << 7)


def decode(call: Call, c: Constants, row: torch.Tensor | None):
    """(s, surrogate derivative, h or None) from one row of the state."""
    neurons = call.layout.neurons
    if call.keep == Keep.NOTHING:  # PassThrough: the derivative is a constant and nothing else is asked for
        return None, c.height, None
    if call.keep == Keep.SPIKES:
        return unpack(row, neurons), c.height, None
    if call.keep == Keep.BITS:
        spikes, inside = row.chunk(2)
        return unpack(spikes, neurons), torch.where(unpack(inside, neurons), c.height, 0), None
    s, level = row >= 128, row & 127
    a = (level.to(c.scale.dtype) + 0.5) * (1 / LEVELS)
    peak = c.height * (1 - a) if call.surrogate == "triangle" else c.height
    z = a * c.scale
    return s, torch.where(level < LEVELS, peak, 0), c.threshold + torch.where(s, z, -z)


def forward(call: ForwardCall) -> None:
    """Fill call.spikes [T, N], call.v [N] and call.state."""
    call.flatten()
    c = Constants(call)
    chunks = call.layout.schedule.chunks()
    stores_rows = call.layout.row_bytes > 0
    v = call.v0_or_zeros()
    s = fire(call, c, v)
    for t in range(call.steps):
        chunk = next((chunk for chunk in chunks if chunk.start <= t < chunk.stop), None)
        if call.keep == Keep.INPUT and chunk and chunk.start == t and chunk.border >= 0:
            call.borders[chunk.border] = v
        h = charge(call, c, v, normalize(c, call.x[t]), s)
        s = fire(call, c, h)
        v = reset(call, c, h, s)
        call.spikes[t] = s if call.spiking else h
        if call.bits is not None:
            call.bits[t] = pack(s)
        if stores_rows and chunk:
            call.rows[chunk.row + t - chunk.start] = encode(call, c, h, s, call.x[t])
    call.v.copy_(v)


def recompute(call: BackwardCall, c: Constants, chunk: Chunk):
    """(h of every step of the chunk, v before every step), from the membrane at its border and x."""
    hs, vs = [], [call.borders[chunk.border] if chunk.border >= 0 else call.v0_or_zeros()]
    s = fire(call, c, vs[0])
    for t in range(chunk.start, chunk.stop):
        hs.append(charge(call, c, vs[-1], normalize(c, call.x_kept(t, chunk)), s))
        s = fired(call, c, t, hs[-1])
        vs.append(reset(call, c, hs[-1], s))
    return hs, vs


def fired(call: BackwardCall, c: Constants, t: int, h: torch.Tensor) -> torch.Tensor:
    """The spikes of step t: as forward had them, where its bits are kept, in case that x was computed anew."""
    return fire(call, c, h) if call.bits is None else unpack(call.bits[t], call.layout.neurons)


def backward(call: BackwardCall) -> None:
    """Fill what is asked for of call.gx [T, N] and call.gv0, gdecay, ggain, gthreshold, gshift, gscale, each [N].

    From step t+1 comes `carried`: dL/dv[t]; with a delayed reset dL/dh[t+1], since step t's spike acts there. `g` is
    dL/dv[t], and `reset_g` the gradient of what the reset takes away.
    """
    call.flatten()
    c = Constants(call)
    schedule = call.layout.schedule
    detach, delayed = call.detach_reset, call.reset == "delayed"
    zero = torch.zeros(call.layout.neurons, dtype=call.layout.compute, device=call.device)
    gdecay, ggain, gthreshold, gshift, gscale = (zero.clone() for _ in range(5))
    mean, slope, offset = (
        None if p is None else p.per_neuron(call.layout.neurons) for p in (call.mean, call.slope, call.offset)
    )

    def taken(s, sg):
        """d(-reset_amount * s) / dthreshold: the spike moves with the threshold, and so does a tied amount."""
        moved = torch.zeros_like(zero) if detach else c.amount * sg
        return moved - s.to(zero.dtype) if call.tied else moved

    def through_norm(gx, t):
        """The gradient of what batch norm normalized, from that of its result."""
        gx = c.scale_of_x * gx
        return gx if slope is None else gx - slope * (call.x[t].to(gx.dtype) - mean) - offset

    if call.gx is not None:
        for t in range(call.steps):  # for the steps that carry no gradient
            call.gx[t] = zero if c.scale_of_x is None else through_norm(zero, t)
    carried = zero if call.gv is None else call.gv
    chunks = schedule.chunks()
    for number, chunk in reversed(list(enumerate(chunks))):
        if call.keep == Keep.INPUT:
            hs, vs = recompute(call, c, chunk)
        for t in range(chunk.stop - 1, chunk.start - 1, -1):
            i = t - chunk.start
            if call.keep == Keep.INPUT:
                h, s = hs[i], fired(call, c, t, hs[i])
                sg = surrogate(call, c, h - c.threshold)
            else:
                s, sg, h = decode(call, c, call.rows[chunk.row + i] if call.layout.row_bytes else None)
            gs = zero if call.gs is None else call.gs[t].to(zero.dtype)
            if t == call.steps - 1:
                g, reset_g = carried, zero if delayed else carried
            else:
                g = carried * (c.decay if detach else c.decay - c.amount * sg) if delayed else carried
                if schedule.is_cut(t):
                    g = zero
                reset_g = carried if delayed else g
            if call.reset == "soft":
                gh = gs * sg + (g if detach else g * (1 - c.amount * sg))
            elif call.reset == "hard":
                stays = torch.where(s, 0, g) if detach else g * (torch.where(s, zero, 1) + (c.v_reset - h) * sg)
                gh = gs * sg + stays
            else:
                gh = gs * sg + g
            if call.gthreshold is not None:
                term = -(gs * sg)
                if call.reset in ("soft", "delayed"):
                    term = term + reset_g * taken(s, sg)
                elif call.reset == "hard" and not detach:
                    term = term - g * ((c.v_reset - h) * sg)
                gthreshold = gthreshold + term
            if call.gdecay is not None:
                gdecay = gdecay + gh * vs[i]
            if call.ggain is not None:
                ggain = ggain + gh * normalize(c, call.x_kept(t, chunk))
            gx = c.gain * gh
            if call.gshift is not None:
                gshift = gshift + gx
            if call.gscale is not None:
                gscale = gscale + gx * (call.x[t].to(gx.dtype) - mean)
            if call.gx is not None:
                call.gx[t] = gx if c.scale_of_x is None else through_norm(gx, t)
            carried = gh if delayed else c.decay * gh
        if number == 0 or chunks[number - 1].stop != chunk.start:  # the step before is v0, or carries no gradient
            if delayed:
                before = vs[0] if call.keep == Keep.INPUT else call.v0_or_zeros()
                s, sg = fire(call, c, before), surrogate(call, c, before - c.threshold)
                gthreshold = gthreshold + carried * taken(s, sg)
                carried = carried * (c.decay if detach else c.decay - c.amount * sg)
            if chunk.start > 0 or not schedule.whole:
                carried = zero
    for out, total in zip(call.totals, (carried, gdecay, ggain, gthreshold, gshift, gscale), strict=True):
        if out is not None:
            out.copy_(total)
