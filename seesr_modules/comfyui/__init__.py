"""The host's side of SeeSR: the only modules that import ComfyUI."""
