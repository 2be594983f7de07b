"""Temporal model merging for vision-language models: the helper library behind the notebooks.

Four rooms, imports run one way only: ``merge`` ← ``clip`` ← ``study`` ← ``book``.
"""

__version__ = "0.1.0"
