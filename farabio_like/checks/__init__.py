"""What is said before the first step: misspelt names, wrong signatures, settings, loaders, optimizers.

An error of a running training is raised where it happens; what is said about a loss that cannot be minimised is here
too.
"""
