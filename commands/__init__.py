"""Commands of the launcher, one module each, with ``parser()`` and ``main(arguments)``.

The top level of these modules imports only the standard library, so the launcher can show help and check arguments
before there is an environment. ``main`` is called inside the environment.
"""
