"""Networks built of ComfyUI's own blocks."""
