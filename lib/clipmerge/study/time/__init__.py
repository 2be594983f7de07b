"""TIME (arXiv 2412.06712): experts that arrive over time. Begin with `loop`, its Figure 2 as code."""
