"""Real images at the papers' own scale: manifests, sources, packs, FoMo-in-Flux (`clipmerge data`)."""
