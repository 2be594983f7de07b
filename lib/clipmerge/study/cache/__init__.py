"""The step cache: what an experiment has computed, named by all that went into it. Begin with `step`, then `store`."""
