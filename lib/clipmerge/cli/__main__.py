"""`python -m clipmerge.cli` is `clipmerge`."""

import sys

from clipmerge.cli import main

sys.exit(main())
