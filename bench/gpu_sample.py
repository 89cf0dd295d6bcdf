"""What there is, and a few calls of every kernel against the reference on the CPU: what compute-sanitizer runs."""

import argparse
import sys

import torch

import fastlif
from fastlif import ops
from fastlif.ops import backends

FORMS = {
    "two bits": {"surrogate": "rectangle"},
    "spike bits": {"surrogate": "pass_through", "reset": "hard", "detach_reset": True},
    "code": {"state": "compact", "reset": "hard"},
    "input": {"reset": "hard"},
    "delayed": {"reset_delay": True, "surrogate": "atan"},
    "windows": {"truncate": (7, 3), "surrogate": "rectangle", "reset": "hard"},
}
SHAPES = ((19, 1024), (5, 2, 3, 7), (18, 1025))  # packs of 16 bytes, and what is left over
DTYPES = (torch.float32, torch.bfloat16)
GRADIENT = 1e-6  # norm of the difference over norm


def main(arguments: list[str]) -> int:
    """Returns 1 if a call's spikes differ in a bit, or its gradients by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--backends", nargs="+", help="default: all of the device's but the reference")
    parser.add_argument("--few", action="store_true", help="one shape and float32 alone for each form")
    args = parser.parse_args(arguments)
    print(fastlif.info())
    names = args.backends or (["cpu"] if args.device == "cpu" else ["cuda", "triton"])
    shapes, dtypes = (SHAPES[2:], DTYPES[:1]) if args.few else (SHAPES, DTYPES)
    wrong = count = 0
    for backend in names:
        if why := backends.reasons(backend, torch.device(args.device), torch.float32):
            print(f"{backend} cannot run: {'; '.join(why)}")
            wrong += 1
            continue
        calls = [(form, shape, dtype) for form in FORMS for shape in shapes for dtype in dtypes]
        calls += [("batch norm", (5, 2, 8, 9), dtype) for dtype in dtypes]
        for call in calls:
            count += 1
            if why := difference(run(*call, backend, args.device), run(*call, "reference", "cpu")):
                wrong += 1
                print(f"{backend} {call}: {why}")
    print(f"{count} calls of {', '.join(names)} on {args.device}, {wrong} wrong")
    return int(wrong > 0)


def run(form: str, shape: tuple[int, ...], dtype: torch.dtype, backend: str, device: str) -> dict[str, torch.Tensor]:
    """Spikes, final membrane and gradient, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(shape, generator=generator) + 0.4).to(device, dtype).requires_grad_()
    gs = torch.randn(shape, generator=generator).to(device, dtype)
    if form == "batch norm":  # evaluated: statistics of a GPU's own sums would differ in their last bit
        norm = [torch.rand(shape[2], generator=generator).to(device) + 0.5 for _ in range(4)]
        spikes, v = fastlif.batch_norm_lif(x, *norm, backend=backend)
    else:
        spikes, v = fastlif.lif(x, **FORMS[form], backend=backend)
    (gx,) = torch.autograd.grad((spikes, v), x, (gs, torch.ones_like(v)))
    found = {"spikes": spikes.detach(), "v": v.detach(), "gx": gx}
    if form == "two bits":
        found["bits"] = torch.ops.fastlif.pack_spikes(spikes.detach())
        found["unpacked"] = ops.planes.unpack_spikes(found["bits"], spikes.shape, spikes.stride(), dtype)
    return {name: tensor.cpu() for name, tensor in found.items()}


def difference(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> str | None:
    """What differs, or None."""
    for name, right in want.items():
        if name != "gx" and not got[name].equal(right):
            return f"{name} differ"
    off, norm = (got["gx"].double() - want["gx"].double()).norm(), want["gx"].double().norm()
    return None if off <= GRADIENT * norm else f"gradient off by {(off / norm).item():.2g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
