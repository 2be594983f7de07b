"""What ConDU is compared with (paper §5.1, Table 1): one method, one file. Begin with `registry`."""

from clipmerge.study.baselines.registry import METHODS, plan, run

__all__ = ["METHODS", "plan", "run"]
