"""What the base remembers of a run: what was asked of it, where it is, and the signals that come meanwhile.

Whoever acts on it is above: the steps of a pass in `loop`, the epochs in `training`. What a checkpoint holds of it
is in `resume`.
"""
