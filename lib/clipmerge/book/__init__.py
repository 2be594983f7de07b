"""What notebooks need: one-line set-up, figures and tables that are byte-stable, progress, and the runner."""

from clipmerge.book.setup import Run, setup

__all__ = ["Run", "setup"]
