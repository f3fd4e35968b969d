"""The parts of a training: model, criterion, optimizer, scheduler; each one object, or a dict of them.

How they are found, named, stored and loaded lives here; nothing that trains them does.
"""

from .one_or_dict import (
    attribute_modules,
    attribute_parameters,
    combine,
    each,
    is_lazy,
    learning_rates,
    model_of,
    modules_of,
    modules_to_evaluate,
    named,
    named_parameters,
    parameters_of,
    set_learning_rates,
)
from .weights import load_model_state, model_state, plain_key, plain_state, unwrap

__all__ = [
    "attribute_modules",
    "attribute_parameters",
    "combine",
    "each",
    "is_lazy",
    "learning_rates",
    "load_model_state",
    "model_of",
    "model_state",
    "modules_of",
    "modules_to_evaluate",
    "named",
    "named_parameters",
    "parameters_of",
    "plain_key",
    "plain_state",
    "set_learning_rates",
    "unwrap",
]
