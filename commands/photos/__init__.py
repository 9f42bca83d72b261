"""Read and write photographs, for every command.

``reading`` opens a file of any kind and returns upright float pictures in sRGB, one at a time. ``writing`` writes
pictures with the source's bit depth, transparency and metadata. A picture that is not in memory is a *layer*: a lazy
libvips image of float values in [0, 1], gray or RGB, with alpha as its last band if it has alpha.
"""
