"""One pass over a loader, around the hooks of a batch: items, the batch under way, metrics, evaluation.

Epochs and runs are in `training`; the hooks themselves are methods of the trainer.
"""
