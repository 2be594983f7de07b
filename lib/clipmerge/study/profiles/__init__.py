"""Profiles: every number an experiment depends on. `settings` lists them, `load` reads them from YAML."""

from clipmerge.study.profiles.load import load, names, order, plain_recipe, recipe, subset
from clipmerge.study.profiles.settings import Profile

__all__ = ["Profile", "load", "names", "order", "plain_recipe", "recipe", "subset"]
