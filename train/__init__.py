"""Training of the method's parts, with requirements/train.txt; of it the nodes import ``degrade`` alone."""
