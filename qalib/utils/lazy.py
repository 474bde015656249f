"""Subpackages whose modules are imported on first use, so that what needs no torch does not load it."""

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, path: Iterable[str], names: Mapping[str, Iterable[str]] = {}
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package (PEP 562): its modules, and `names` of some of them.

    `package` and `path` are its `__name__` and `__path__`; `names` lists, by module, what else to offer.

    >>> from qalib import utils
    >>> attach("qalib.utils", utils.__path__, {"errors": ["InputError"]})[0]("InputError")
    <class 'qalib.utils.errors.InputError'>
    """
    homes = {name: module for module, offered in names.items() for name in offered}
    modules = {found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_")}
    public = sorted(modules | homes.keys())

    def get(name: str) -> Any:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = import_module(f"{package}.{homes.get(name, name)}")
        return getattr(found, name) if name in homes else found

    return get, lambda: public, public
