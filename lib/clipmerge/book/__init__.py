"""What notebooks need: one-line set-up, figures and tables that are byte-stable, verdicts, and the runner."""

from clipmerge.book.run_record import Run
from clipmerge.book.setup import setup

__all__ = ["Run", "setup"]
