"""ConDU (paper §4, §5.2): sessions that unify and decouple, and how they are graded. Begin with `protocol`."""
