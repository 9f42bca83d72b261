"""Training of the method's parts. It needs requirements/train.txt."""
