"""The parts of a training: model, criterion, optimizer, scheduler; each one object, or a dict of them.

How they are found, named, stored and loaded lives here; nothing that trains them does.
"""

from .inventory import model_of, modules_of, modules_to_evaluate, named_parameters
from .one_or_dict import combine, each, is_lazy, learning_rates, named, param_groups, parameters_of, set_learning_rates
from .weights import load_model_state, model_state, plain_key, plain_state, unwrap

__all__ = [
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
    "param_groups",
    "parameters_of",
    "plain_key",
    "plain_state",
    "set_learning_rates",
    "unwrap",
]
