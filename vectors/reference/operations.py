"""Every operation of README.md by its name."""
from . import amd, certificates, launches, packets, sessions
from .basics import Refused

OPERATIONS = {
    name[len("op_") :].replace("_", "-"): function
    for module in (sessions, launches, packets, certificates, amd)
    for name, function in vars(module).items()
    if name.startswith("op_")
}


def run(operation, fields):
    """What an operation gives for the input of a case: what its `expect` has to be."""
    try:
        return OPERATIONS[operation](fields)
    except Refused as refusal:
        return refusal.outcome
