"""Silence for the libraries: their bars and hints at every load and save say nothing about a training."""

from __future__ import annotations

import logging


def quieten_libraries() -> None:
    """Let diffusers and transformers print errors alone, and the others warnings."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    for library in (diffusers, transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()
    for name in ("httpx", "huggingface_hub", "accelerate", "PIL", "torch", "tensorboard"):
        logging.getLogger(name).setLevel(logging.WARNING)
