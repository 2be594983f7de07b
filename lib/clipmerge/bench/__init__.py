"""Benchmarks of the library itself: how long merging takes and how much memory, file to file and the plain way.

`python -m clipmerge.bench` (``make bench``) measures everything and draws `bench_merge`. Nothing here is imported by
the other rooms, and every measurement runs in a process of its own (`measure`), so that its peak memory is its own.
"""
