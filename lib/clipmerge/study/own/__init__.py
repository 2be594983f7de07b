"""Experts of your own (or public ones) graded on data of your own, no training needed. Begin with `experts`."""
