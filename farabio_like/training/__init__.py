"""What `train` and `test` do around the epochs: open and end a run, find the best, schedules, stages, pictures.

A pass over a loader is in `loop`, the whole state of a run in `resume`.
"""
