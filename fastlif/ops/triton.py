"""The Triton backend: launches ops/triton_kernels.py on CUDA tensors, or on any tensors in Triton's interpreter."""

import contextlib
import functools
import math

import torch

from .call import BackwardCall, Call, ForwardCall
from .state import CHUNK, Keep

WARPS = 4
GROUP = 4  # steps whose loads are issued together
HELD = 8  # steps whose h backward holds in registers


@functools.cache
def load():
    """(the module of the kernels or None, why there is none). Triton is imported here and nowhere else."""
    try:
        from . import triton_kernels
    except ImportError as error:
        return None, f"triton cannot be imported ({error}); install it with: pip install triton"
    return triton_kernels, None


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set when Triton was imported."""
    import triton

    return not isinstance(load()[0].lif_fwd_kernel, triton.runtime.JITFunction)


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


def common(call: Call, x_itemsize: int) -> dict:
    """The arguments that both kernels take."""
    schedule = call.layout.schedule
    k1, k2 = (max(call.steps, 1),) * 2 if schedule.whole else (schedule.cut, schedule.tail)
    names = ("decay_number", "gain_number", "bias", "threshold_number", "amount", "v_reset", "scale", "height")
    block = WARPS * 32 * 16 // x_itemsize  # 16 bytes of x for every thread
    arguments = dict(zip(names, call.values, strict=True))
    ones = [arguments[name] == 1 for name in ("gain_number", "threshold_number", "amount", "scale", "height")]
    for name, p in zip(("decay", "gain", "threshold"), call.params, strict=True):
        arguments[name] = None if p is None else p.data
        arguments[f"{name}_inner"] = 1 if p is None else p.inner
        arguments[f"{name}_length"] = 1 if p is None else p.data.numel()
        arguments[f"{name.upper()}_SCALAR"] = p is not None and p.data.numel() == 1
    return arguments | {
        "v0": call.v0,
        "borders": call.borders if call.keep == Keep.INPUT else None,
        "rows": call.rows if call.layout.row_bytes and call.steps else None,
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
    return common(call, call.x.dtype.itemsize) | {
        "x": call.x,
        "spikes": call.spikes,
        "v_last": call.v,
        "x_stride": call.x.stride(0),
        "spikes_stride": call.spikes.stride(0),
        "SPIKING": call.spiking,
    }


def backward_arguments(call: BackwardCall) -> dict:
    """What lif_bwd_kernel takes."""
    arguments = common(call, call.gx.dtype.itemsize)
    steps = GROUP
    if call.keep == Keep.INPUT and arguments["k2"] > GROUP:
        steps = HELD
    if call.layout.copies_x:
        x, x_stride, arguments["rows"] = arguments["rows"], call.layout.neurons, None
    else:
        x, x_stride = call.x, 0 if call.x is None else call.x.stride(0)
    gv0, gdecay, ggain, gthreshold = call.totals
    return arguments | {
        "gs": call.gs,
        "gv": call.gv,
        "x": x,
        "x_stride": x_stride,
        "gs_stride": 0 if call.gs is None else call.gs.stride(0),
        "gx": call.gx,
        "gx_stride": call.gx.stride(0),
        "gv0": gv0,
        "gdecay": gdecay,
        "ggain": ggain,
        "gthreshold": gthreshold,
        "cut": call.layout.schedule.cut,
        "CUT": call.layout.schedule.cut > 0,
        "SURROGATE": call.surrogate,
        "DETACH": call.detach_reset,
        "STEPS": steps,
        "OPAQUE": not interpreted(),
    }


def options(arguments: dict) -> dict:
    """How a kernel is compiled: no fused multiply-add, and registers for three programs a multiprocessor, or for two
    where neurons have parameters and totals of their own. Left to itself ptxas spills for the sake of a fourth."""
    registers = None
    if arguments.get("STEPS") == HELD:
        own = any(arguments[name] is not None for name in ("decay", "gain", "threshold"))
        registers = 255 if own else 168
    return {"num_warps": WARPS, "enable_fp_fusion": False, "maxnreg": registers}


def launch(kernel, call: Call, arguments: dict) -> None:
    """Run `kernel` over all neurons, on the device of the call and its current stream."""
    programs = -(-call.layout.neurons // arguments["BLOCK"])
    device = torch.cuda.device(call.device) if call.device.type == "cuda" else contextlib.nullcontext()
    with device:
        kernel[(programs,)](**arguments, **options(arguments))


def forward(call: ForwardCall) -> None:
    """Fill call.spikes, call.v and call.state."""
    launch(load()[0].lif_fwd_kernel, call, forward_arguments(call))


def backward(call: BackwardCall) -> None:
    """Fill call.gx and the gradients that are asked for."""
    launch(load()[0].lif_bwd_kernel, call, backward_arguments(call))
