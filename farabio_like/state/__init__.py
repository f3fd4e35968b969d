"""What the base remembers of a run: what was asked of it, where it is, and the signals that come meanwhile.

What a checkpoint holds of it is in `resume`.
"""
