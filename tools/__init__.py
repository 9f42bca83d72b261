"""Tools for developers: ``generate`` writes what is made from other files; the others are started by name."""
