"""RuntimeGroup and RuntimeManager where scripts for lazycluster 0.2 import them."""

from __future__ import annotations

from lazycluster.groups import RuntimeGroup
from lazycluster.manager import RuntimeManager

__all__ = ["RuntimeGroup", "RuntimeManager"]
