"""What data sets need from outside: optional libraries, and a folder with files that nothing here downloads."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import torch


def library(module: str, need: str, extra: str) -> ModuleType:
    """The module called `module`.

    Args:
        need: the start of the message, as in "the digits come with scikit-learn".
        extra: the extra of fastlif that installs it.

    Raises:
        ModuleNotFoundError: it, or something that it needs, is not installed; the message says how to get it.
        RuntimeError: it is installed but cannot be loaded, as where it was built for another torch.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        inner = error.name.partition(".")[0] if error.name else package
        which = "which is" if inner == package else f"and {inner}, which that needs, is"
        message = f"{need}, {which} not installed here; get it with: pip install 'fastlif[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"{need}, which cannot be loaded with torch {torch.__version__} ({error}); "
            "most likely it was built for another: install the build that belongs to this one"
        ) from error


def folder(root: str | os.PathLike | None) -> Path:
    """Where data sets lie: `root`, or $FASTLIF_DATA, or data/ in the current folder."""
    return Path(root or os.environ.get("FASTLIF_DATA") or "data").expanduser().absolute()


def missing(name: str, where: Path, get: str, problem: str = "is not there") -> FileNotFoundError:
    """The error for a data set whose files are not (all) there."""
    return FileNotFoundError(
        f"{name} {problem}: looked for in {where} (root=..., or else $FASTLIF_DATA, or else ./data, says where); {get}"
    )
