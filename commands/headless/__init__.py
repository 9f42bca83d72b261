"""ComfyUI in this process, without its server."""
