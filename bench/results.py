"""Results: rows of failures, and files of JSON, written whole or not at all."""

import json
import os
from pathlib import Path


def save(path: Path, result: dict) -> None:
    """Write `result` to a temporary file beside `path` and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)


def load(path: Path) -> dict:
    """A result file; SystemExit says what is wrong with it."""
    try:
        result = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"cannot read the results {path}: {error}") from error
    if "rows" not in result:
        raise SystemExit(f"{path} holds no benchmark rows")
    return result


def failure(error: Exception) -> dict:
    """What to enter into a row for an error."""
    first, *_ = str(error).strip().splitlines() or [""]
    return {"status": "failed", "reason": f"{type(error).__name__}: {first}"}
