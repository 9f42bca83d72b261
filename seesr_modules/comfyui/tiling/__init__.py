"""Prediction in tiles."""
