"""Pipelines: tasks that depend on one another, read from YAML, run as child processes, stopped and gone on with.

Searches are here too. Nothing here knows a trainer but `trial`, the process of one trial of a search. What the command
line prints is in `cli.dag` and `cli.search`.
"""
