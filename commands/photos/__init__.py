"""Photographs in, photographs out: one reader and one writer for every command.

``reading`` opens a file of any kind and gives upright float pictures in sRGB, one at a time; ``writing`` writes
pictures with the source's bit depth, transparency and metadata. A picture that is not in memory is a *layer*: a lazy
libvips image of float values in [0, 1], gray or RGB, with alpha as its last band where there is one.
"""
