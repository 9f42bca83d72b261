"""Commands of the launcher, one module each, with ``parser()`` and ``main(arguments)``.

A module's top level imports the standard library only, so that the launcher can show its help and check
its arguments before there is an environment; ``main`` is called inside the environment.
"""
