"""Measure cost, speed and memory, for developers."""
