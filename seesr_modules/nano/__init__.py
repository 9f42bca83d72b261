"""Nano: a SeeSR small enough to ship, and the parts that only it has. Pure torch."""
