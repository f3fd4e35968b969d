"""Pipelines: tasks that depend on one another, read from YAML, run as child processes, stopped and gone on with.

Nothing here knows a trainer: a task that trains is a process that does. What the command line prints is in `cli.dag`.
"""
