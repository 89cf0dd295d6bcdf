"""The layers."""

from .lif import IF, LI, LIF, Stateful, detach_state, reset_state
from .per_step import PerStep

__all__ = ["IF", "LI", "LIF", "PerStep", "Stateful", "detach_state", "reset_state"]
