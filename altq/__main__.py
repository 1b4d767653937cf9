"""`python -m altq`, the same as `altq`."""

import sys

from altq.cli import main

sys.exit(main())
