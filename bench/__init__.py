"""Measures of cost: multiply-adds counted, and times compared in pairs."""
