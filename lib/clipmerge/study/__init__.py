"""Experiments: profiles, the step cache, ConDU's protocol, metrics and results."""
