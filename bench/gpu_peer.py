"""SpikingJelly's LIF kernels in native CUDA: in no wheel on the package index, so built from its source distribution.

    python -m bench.gpu_peer spikingjelly-2.0.0.tar.gz --out wheels    # needs nvcc, ninja and the CUDA torch it is for

Its other operators are left out: each takes nvcc more than a minute. The wheel is for one version of Python and torch.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

OPERATOR = "lif"
TOOLKIT = Path("/usr/local/cuda")


def main(arguments: list[str]) -> int:
    """pip's exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_peer", description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    parser.add_argument("--archs", default="9.0", help="as TORCH_CUDA_ARCH_LIST; default 9.0")
    parser.add_argument("--install", type=Path, help="folder to install it into, over what is there")
    args = parser.parse_args(arguments)
    pip, options = (sys.executable, "-m", "pip"), ("--no-deps", "--no-index")
    with tempfile.TemporaryDirectory() as folder:
        source = unpack(args.sdist, Path(folder))
        wheel = (*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", args.out, source)
        done = subprocess.run(wheel, env=os.environ | environment(args.archs))
    if done.returncode or not args.install:
        return done.returncode
    built = max(args.out.glob("spikingjelly-*-cp*.whl"), key=lambda path: path.stat().st_mtime)
    return subprocess.run((*pip, "install", *options, "--upgrade", "--target", args.install, built)).returncode


def unpack(sdist: Path, folder: Path) -> Path:
    """Its source, where only OPERATOR is left to compile."""
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    for kernel in source.glob("ops/*/native.cu"):
        if kernel.parent.name != OPERATOR:
            kernel.unlink()
    return source


def environment(archs: str) -> dict[str, str]:
    """What its build asks for; pip's CUDA headers, as torch includes some that a small toolkit has not."""
    headers = map(str, Path(sysconfig.get_path("purelib"), "nvidia").glob("*/include"))
    path = os.pathsep.join(filter(None, (os.environ.get("CPATH"), *sorted(headers))))
    home = {"CUDA_HOME": str(TOOLKIT)} if "CUDA_HOME" not in os.environ and (TOOLKIT / "bin" / "nvcc").exists() else {}
    return {"SJ_BUILD_NATIVE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": archs, "CPATH": path} | home


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
