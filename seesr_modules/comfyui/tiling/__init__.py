"""Predicting in tiles: the layout, what each tile sees, and its own prompts."""
