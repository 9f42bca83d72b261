"""The command ``upscale``: many photos, one after the other, in a run that can be stopped and goes on."""

from .command import main, parser

__all__ = ["main", "parser"]
