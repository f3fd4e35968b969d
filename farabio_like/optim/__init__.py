"""When the weights move and by which gradients: accumulation, clipping, scalers, steps that are not finite.

The optimizers are torch's own; schedulers that move per epoch are in `training.schedulers`.
"""
