"""The command ``upscale``: many photos, in one process or in many, in a run that can be stopped and goes on."""

from .command import main, parser, roles

__all__ = ["main", "parser", "roles"]
