"""The command ``farabio-like``: a table of commands in `main`, and a file with one function for each of them.

A command reads its arguments, calls what does the work, and prints; nothing is worked out here.
"""
