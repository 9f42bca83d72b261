"""What ComfyUI loads: the method in pure torch, and in :mod:`.comfyui` its steps inside of ComfyUI."""
