"""RuntimeGroup where scripts for lazycluster 0.2 import it; it is in `lazycluster.groups`."""

from __future__ import annotations

from lazycluster.groups import RuntimeGroup

__all__ = ["RuntimeGroup"]
