"""The whole state of a run, out and in: what a checkpoint holds, when one is written, how a run goes on from it.

Files and plain data are in `checkpoint`, the folder of a run in `rundir`.
"""
