"""Where tests find what is not in the repository."""

from __future__ import annotations

from pathlib import Path

#: Published data, beside the checkout, where it is there.
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
