"""Training of the method's parts; needs the ``train`` extra (diffusers), which the nodes never import."""
