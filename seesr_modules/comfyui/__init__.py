"""The only modules of this package that import ComfyUI."""
