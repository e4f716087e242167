"""Rows of every layer assigned to parts: models, partitioners, and an independent recount of what they give."""
