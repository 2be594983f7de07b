"""Checkpoints of others: any reference, any of the usual layouts of CLIP, read lazily in open_clip's names."""

from clipmerge.clip.hub.doors import opened
from clipmerge.clip.hub.out import write

__all__ = ["opened", "write"]
