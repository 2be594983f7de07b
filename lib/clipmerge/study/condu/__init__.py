"""ConDU (paper §4, §5.2): what methods keep after each session, and who answers. Begin with `protocol` and `contract`.

`sessions` unifies and decouples; `features`, `voting` and `panel` are the evaluator, which `grading` asks as a step.
"""
