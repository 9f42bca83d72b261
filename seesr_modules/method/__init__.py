"""The method in pure torch: no ComfyUI, no files."""
