"""DAPE, the degradation-aware prompt extractor: an image in, tags and soft prompt out."""
