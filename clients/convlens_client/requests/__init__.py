"""What can be asked: one function a question, which builds the request and reads the reply, without any I/O.

`Client` and `AsyncClient` have a method for each, with the same arguments. A model is a name or
"name/version"; empty means the embedded default. Arguments left at None take the server's defaults, which the
protos state.
All methods may raise the errors of `convlens.errors`; a bad value is InvalidArgument and names its field.
Each function can be had from here, too: `requests.watch` is `requests.job.watch`.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    modules = [module.name for module in iter_modules(__path__)]
    if name not in modules:
        for module in modules:
            members = vars(import_module(f"{__name__}.{module}"))
            if name in members:
                return members[name]
    raise AttributeError(f"{__name__} has no {name!r}")
