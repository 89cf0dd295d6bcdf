"""What is kept for backward."""

from .checkpoint_time import checkpoint_time
from .compact import compact
from .plan import Choice, Plan, plan
from .saved import SavedBytes, saved_bytes

__all__ = ["Choice", "Plan", "SavedBytes", "checkpoint_time", "compact", "plan", "saved_bytes"]
