"""ComfyUI inside of this process, without its server."""
