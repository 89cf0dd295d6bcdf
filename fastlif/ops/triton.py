"""The Triton backend: launches its kernels on CUDA tensors, or on any tensors in Triton's interpreter."""

import contextlib
import functools
import math

import torch

from .call import BackwardCall, Call, ForwardCall, Param
from .state import CHUNK, Keep

WARPS = 4
GROUP = 4  # steps whose loads are issued together
HELD = 8  # steps whose h backward holds in registers


@functools.cache
def load():
    """(the kernels or None, why there are none). Triton is imported here and nowhere else."""
    try:
        from .triton_backward import lif_bwd_kernel
        from .triton_channels import channel_sums_kernel
        from .triton_forward import lif_fwd_kernel
    except ImportError as error:
        return None, f"triton cannot be imported ({error}); install it with: pip install triton"
    return (lif_fwd_kernel, lif_bwd_kernel, channel_sums_kernel), None


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set when Triton was imported."""
    import triton

    return not isinstance(load()[0][0], triton.runtime.JITFunction)


@torch.compiler.assume_constant_result
def reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the kernels cannot run tensors of `device`, all of it."""
    kernels, missing = load()
    found = [] if missing is None else [missing]
    if kernels is not None and interpreted():
        return found
    if device.type != "cuda":
        found.append(f"it needs CUDA tensors, or TRITON_INTERPRET=1 in the environment, got tensors on {device}")
    elif torch.cuda.is_available() and (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        found.append("it needs compute capability 8.0, {} has {}.{}".format(device, *capability))
    return found


def scale_kind(scale: float) -> str:
    """How to divide by a surrogate's scale: see over_scale in ops/triton_neuron.py."""
    if scale == 1:
        return "one"
    return "power of two" if math.frexp(scale)[0] == 0.5 and 2.0**-100 < scale < 2.0**100 else "any"


def data(p: Param | None) -> torch.Tensor | None:
    """What a kernel reads of a parameter."""
    return None if p is None else p.data


def common(call: Call) -> dict:
    """The arguments that both kernels take."""
    schedule = call.layout.schedule
    k1, k2 = (max(call.steps, 1),) * 2 if schedule.whole else (schedule.cut, schedule.tail)
    names = ("decay_number", "gain_number", "bias", "threshold_number", "amount", "v_reset", "scale", "height")
    block = WARPS * 32 * 16 // call.layout.x_dtype.itemsize  # 16 bytes of x for every thread
    arguments = dict(zip(names, call.values, strict=True))
    ones = [arguments[name] == 1 for name in ("gain_number", "threshold_number", "amount", "scale", "height")]
    for name, p in zip(("decay", "gain", "threshold"), call.params, strict=True):
        arguments[name] = data(p)
        arguments[f"{name}_inner"] = 1 if p is None else p.inner
        arguments[f"{name}_length"] = 1 if p is None else p.data.numel()
        arguments[f"{name.upper()}_SCALAR"] = p is not None and p.data.numel() == 1
    arguments["channel_inner"] = 1 if call.scale is None else max(call.scale.inner, 1)  # as of all that is by channel
    arguments["channels"] = 1 if call.scale is None else call.scale.data.numel()
    return arguments | {
        "scale_of_x": data(call.scale),
        "shift_of_x": data(call.shift),
        "bits": call.bits,
        "v0": call.v0,
        "borders": call.borders if call.keep == Keep.INPUT else None,
        "rows": call.rows if call.layout.row_bytes else None,
        "T": call.steps,
        "N": call.layout.neurons,
        "k1": k1,
        "k2": k2,
        "RESET": call.reset,
        "TIED": call.tied,
        "EQUAL": call.fire_on_equal,
        "SCALE": scale_kind(arguments["scale"]),
        "ONES": sum(one << bit for bit, one in enumerate(ones)),
        "KEEP": Keep(call.keep).name.lower(),
        "WHOLE": schedule.whole,
        "CHUNK": CHUNK,
        "WIDE": call.layout.neurons + block > 2**31,
        "BLOCK": block,
        "GROUP": GROUP,
    }


def forward_arguments(call: ForwardCall) -> dict:
    """What lif_fwd_kernel takes."""
    return common(call) | {
        "x": call.x,
        "spikes": call.spikes,
        "v_last": call.v,
        "x_stride": call.x.stride(0),
        "spikes_stride": call.spikes.stride(0),
        "SPIKING": call.spiking,
    }


def backward_arguments(call: BackwardCall) -> dict:
    """What lif_bwd_kernel takes."""
    arguments = common(call)
    narrow = call.layout.x_dtype.itemsize < 4
    crowded = narrow and call.bits is not None and None not in call.totals[1:]  # eight neurons a thread, all totals
    steps = HELD if call.keep == Keep.INPUT and arguments["k2"] > GROUP and not crowded else GROUP
    if call.layout.copies_x:
        x, x_stride, arguments["rows"] = arguments["rows"], call.layout.neurons, None
    elif call.steps:
        x, x_stride = call.x, 0 if call.x is None else call.x.stride(0)
    else:  # nobody reads it, but the kernel's loop over no steps is compiled
        x, x_stride = arguments["borders"], 0
    arguments |= dict(zip(call.TOTALS, call.totals, strict=True))
    return arguments | {
        "gs": call.gs,
        "gv": call.gv,
        "x": x,
        "x_stride": x_stride,
        "gs_stride": 0 if call.gs is None else call.gs.stride(0),
        "gx": call.gx,
        "gx_stride": 0 if call.gx is None else call.gx.stride(0),
        "mean": data(call.mean),
        "slope": data(call.slope),
        "offset": data(call.offset),
        "cut": call.layout.schedule.cut,
        "CUT": call.layout.schedule.cut > 0,
        "SURROGATE": call.surrogate,
        "DETACH": call.detach_reset,
        "STEPS": steps,
        "HOLDS_X": call.scale is not None and call.layout.x_dtype == torch.float32,
        "OPAQUE": not interpreted(),
        "DOUBLE": call.layout.compute == torch.float64,
    }


def options(arguments: dict) -> dict:
    """How a kernel is compiled: no fused multiply-add, and registers for three programs a multiprocessor, or for two
    where neurons have parameters and totals of their own, or batch norm's in other types than float32. Left to
    itself ptxas spills for the sake of a fourth."""
    registers = None
    if arguments.get("STEPS") == HELD:
        own = any(arguments[name] is not None for name in ("decay", "gain", "threshold"))
        own |= arguments["scale_of_x"] is not None and not arguments["HOLDS_X"]
        registers = 255 if own else 168
    return {"num_warps": WARPS, "enable_fp_fusion": False, "maxnreg": registers}


def launch(kernel, call: Call, arguments: dict) -> None:
    """Run `kernel` over all neurons, on the device of the call and its current stream."""
    programs = -(-call.layout.neurons // arguments["BLOCK"])
    with on(call.device):
        kernel[(programs,)](**arguments, **options(arguments))


def on(device: torch.device):
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def forward(call: ForwardCall) -> None:
    """Fill call.spikes, call.v and call.state."""
    launch(load()[0][0], call, forward_arguments(call))


def backward(call: BackwardCall) -> None:
    """Fill call.gx and the gradients that are asked for."""
    launch(load()[0][1], call, backward_arguments(call))


def channel_sums(rows: torch.Tensor, inner: int, parts: torch.Tensor) -> None:
    """As fastlif::native_channel_sums: rows [R, N] into parts [parts, 1 or 2, channels], float64."""
    count, _, channels = parts.shape
    per_row = rows.shape[1] // (inner * channels)
    runs, dense = rows.shape[0] * per_row, rows.stride(0) == rows.shape[1]
    span = 32 if inner == 1 else min(1024, 1 << (inner - 1).bit_length())
    with on(rows.device):
        load()[0][2][-(-channels // span) if inner == 1 else channels, count](
            rows, parts[:, 0], parts[:, 1] if parts.shape[1] == 2 else None, rows.stride(0), parts.stride(0), inner,
            channels, per_row, runs, -(-runs // count), dense, inner == 1, 1024 // span, span, num_warps=WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip
