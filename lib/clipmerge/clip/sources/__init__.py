"""Decoders: one module per kind of source, each turning members of verified wheels into 32 x 32 images."""
