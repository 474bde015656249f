"""Runs qalib as if nothing were installed but what its commands need; test_bare.py starts it. Arguments: qalib's."""

import sys
from importlib import metadata
from importlib.machinery import PathFinder

from packaging.requirements import Requirement

NEEDED = "torch transformers numpy pandas matplotlib typer tqdm accelerate safetensors".split()


def closure(names):
    """These distributions and all that they depend on, by name."""
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            wanted = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # of another system
            continue
        left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def hide_the_rest():
    """Let the modules of all other distributions not be found; returns their names."""
    there = closure(NEEDED)
    owners = metadata.packages_distributions().items()
    hidden = {module for module, names in owners if not {n.lower().replace("_", "-") for n in names} & there}
    hidden -= {"qalib"}
    find = PathFinder.find_spec

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in hidden else find(name, path, target)

    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
    return hidden


if __name__ == "__main__":
    hidden = hide_the_rest()
    wanted = {"altair", "papermill", "nbconvert", "ipywidgets", "datasets", "cpuinfo"}  # that this test is about
    assert wanted <= hidden and not wanted & sys.modules.keys(), hidden
    from qalib.cli import main

    main()
