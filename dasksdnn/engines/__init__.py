"""Engines: each moves panels between parts in its own way; the arithmetic of a part is the same in all."""
