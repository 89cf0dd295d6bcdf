"""What every table and plot needs: medians of timed rows, the fastest of a group, ratios between them."""

import math
import statistics

RIVALS = ("naive", "compile", "spikingjelly", "snntorch")
COLORS = {"fastlif": "tab:green", "kernel": "tab:olive", "copy": "black"}


def median(row: dict | None, direction: str = "both") -> float | None:
    """Median seconds of a row, None where it was not timed."""
    return row[direction]["median"] if row and direction in row else None


def fastest(rows: list[dict], group: str) -> float | None:
    """The best forward + backward time of a group, whatever the surrogate or the backend."""
    return min((t for row in rows if row["group"] == group if (t := median(row)) is not None), default=None)


def ratio(over: float | None, under: float | None) -> str:
    return "" if over is None or under is None else f"{over / under:.2f}"


def bandwidth(row: dict, copy: dict) -> float | None:
    """The bytes that must move, over time, as a share of what copies reach; None where they are not counted."""
    if not row.get("moved_bytes"):
        return None
    return row["moved_bytes"] / copy["moved_bytes"] * median(copy) / median(row)


def time(row: dict) -> str:
    """Median and quartiles of forward + backward, in milliseconds."""
    both = row["both"]
    return f"{both['median'] * 1e3:.3g} ({both['q1'] * 1e3:.3g}-{both['q3'] * 1e3:.3g})"


def reason(row: dict) -> str:
    """Why a row has no numbers."""
    return f"{row['status']}: {row['reason']}".replace("|", "\\|")


def figures():
    """matplotlib's pyplot, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def share(values: list[float]) -> str:
    """Mean and deviation in percent."""
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation(values):.2f}"


def deviation(values: list[float]) -> float:
    """The sample's standard deviation, NaN of a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
