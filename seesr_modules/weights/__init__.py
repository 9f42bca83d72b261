"""Safe, lazy reading of weight files: safetensors, torch files, folders in the diffusers layout; and writing."""

from __future__ import annotations

from .opening import SUFFIXES, open_weights, resolve_inside
from .part import TensorInfo
from .reader import WeightFile
from .writer import write_safetensors

__all__ = ["SUFFIXES", "TensorInfo", "WeightFile", "open_weights", "resolve_inside", "write_safetensors"]
