"""Fetching the published weights, which :mod:`seesr_modules.published` lists."""
