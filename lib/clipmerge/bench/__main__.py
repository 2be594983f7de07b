"""`python -m clipmerge.bench`: the command line of the benchmark."""

import argparse
import os
from collections.abc import Sequence

from clipmerge.bench import merging


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, save `bench_merge`, say how the aims were met."""
    parser = argparse.ArgumentParser("python -m clipmerge.bench", description=merging.__doc__)
    parser.add_argument("--out", default="", help="folder of the figure (figures/laptop)")
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip configuration (ViT-B-16)")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 4, 8, 16], help="numbers of experts (2 4 8 16)")
    parser.add_argument("--plain", type=int, default=8, help="most experts for the plain version and mergekit (8)")
    parser.add_argument("--mergekit", default="", metavar="PATH", help="mergekit-pytorch, to be measured beside ours")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    print(merging.run(options.model, options.counts, options.plain, options.threads, options.out, options.mergekit))


if __name__ == "__main__":
    main()
