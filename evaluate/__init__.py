"""Evaluation of upscalers on degraded photos: metrics, a table and a contact sheet."""
