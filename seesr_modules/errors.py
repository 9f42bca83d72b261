"""The one error that users are meant to read."""

from __future__ import annotations


class SeeSRError(ValueError):
    """Bad input. The message names the input, what is wrong with it and what to do."""
