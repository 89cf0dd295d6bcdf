"""What is kept for backward."""

from .saved import SavedBytes, saved_bytes

__all__ = ["SavedBytes", "saved_bytes"]
