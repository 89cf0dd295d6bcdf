"""Many runs, each kept when it is done: side by side, one thread each, to be interrupted and continued at any time."""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .config import Config
from .run import end_with_parent

Job = Callable[[str, Config, Path], dict[str, Any]]  # name, config, a folder of its own -> what is kept


def side_by_side(
    configs: Mapping[str, Config], job: Job, folder: Path, processes: int | None = None
) -> dict[str, dict[str, Any]]:
    """What `job` makes of every config, by name; of those that `folder` has already, what it has.

    Args:
        configs: by name, which is also the path of the run's own folder in `folder`.
        job: called as job(name, config, own folder); returns what JSON can hold. Its own folder has what an interrupted
            call has left, to go on from. Must be a function of a module.
        folder: remove it to run everything anew. A run whose config has changed since is run anew, but for where its
            data lies and who reads it.
        processes: how many at once; unless given as many as there are GPUs, or cores where none is used. GPUs are
            dealt out to them in turn: each process sees one.

    Raises:
        ValueError: processes < 1; a config names one GPU of several.
        RuntimeError: a run has failed; the message says which, and why. What was running beside it is done and kept.
    """
    from tqdm import tqdm

    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    devices = {config.torch_device() for config in configs.values()}
    if named := [device for device in devices if device.type == "cuda" and device.index is not None]:
        raise ValueError(f"device must be 'cuda', each process takes its own: got {str(named[0])!r}")
    os.environ["OMP_NUM_THREADS"] = "1"
    found, gpus = {}, visible_gpus() if any(device.type == "cuda" for device in devices) else []
    count = processes or len(gpus) or os.cpu_count()
    context = multiprocessing.get_context("spawn")
    turns = context.Queue()
    for number in range(count):
        turns.put(gpus[number % len(gpus)] if gpus else None)
    with ProcessPoolExecutor(count, context, initializer=begin, initargs=(turns,)) as pool:
        running = {pool.submit(once, name, config, job, folder): name for name, config in configs.items()}
        try:
            for done in tqdm(as_completed(running), total=len(running), unit="run", file=sys.stderr):
                found[running[done]] = result_of(running[done], done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: found[name] for name in configs}


def result_of(name: str, done: Future) -> dict[str, Any]:
    """What a run has made, or the error that it ended in, with its name."""
    try:
        return done.result()
    except Exception as error:
        raise RuntimeError(f"run {name!r}: {error}") from error


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them: up to the first that is none."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return [gpu.strip() for gpu in named.split(",")][:count] if named else [str(number) for number in range(count)]


def begin(turns: multiprocessing.Queue) -> None:
    """In each process before its first run: it ends with its parent, and sees the GPU whose turn it is."""
    end_with_parent()
    if (gpu := turns.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def once(name: str, config: Config, job: Job, folder: Path) -> dict[str, Any]:
    """What `job` makes of a config, or has made of it before."""
    out = folder / name
    done, options = out / "result.json", out / "config.json"
    if out.exists() and not (options.exists() and alike(json.loads(options.read_text()), config)):
        shutil.rmtree(out)
    if not done.exists():
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.replace(options, json.dumps(asdict(config), indent=1).encode())
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress bar
            result = job(name, config, out)
        checkpoint.replace(done, json.dumps(result, indent=1).encode())
    return json.loads(done.read_text())


def alike(options: dict[str, Any], config: Config) -> bool:
    """Whether these are the options of `config`, wherever its data lies."""
    own = json.loads(json.dumps(asdict(config)))
    return all(options.get(name) == own.get(name) for name in options | own if name not in checkpoint.ELSEWHERE)
