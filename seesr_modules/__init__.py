"""SeeSR as a library: the method in pure modules, the host's side of it in :mod:`.host`."""
