"""What became of every claim of both papers (§7). Begin with `judge`: a line for each claim, from the csv of artefacts.

The claims stand in ``data_manifests/claims.yaml``. `manifest` reads them, `rows` finds their numbers, and `evidence`
decides, here and in every notebook.
"""
