"""Profiles: every number an experiment depends on. `settings` lists them, `load` reads them from YAML."""

from clipmerge.study.profiles.load import FOLDER, load, names, order, read, recipe
from clipmerge.study.profiles.settings import Profile

__all__ = ["FOLDER", "Profile", "load", "names", "order", "read", "recipe"]
