"""How the profiles' rates were chosen: on validation images, by searches whose csv are in ``data_manifests/tuning``."""
