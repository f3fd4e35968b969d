"""What is said before the first step: misspelt names, wrong signatures, settings, loaders, optimizers.

Errors of a running training are raised where they happen, not here.
"""
