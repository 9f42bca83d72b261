"""From names and files to loaded models."""
