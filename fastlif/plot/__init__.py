"""Plots: trainings, spikes, loss landscapes, lines with error bands. Drawing needs matplotlib, importing does not."""

from .bars import bars
from .curves import curves
from .exits import exits
from .landscapes import landscapes
from .lines import lines, panels
from .report import report
from .spikes import record, spikes, spiking_layers

__all__ = ["bars", "curves", "exits", "landscapes", "lines", "panels", "record", "report", "spikes", "spiking_layers"]
