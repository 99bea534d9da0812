"""`python -m vlmamba`, the same as `vlmamba`."""

import sys

from vlmamba.cli import main

if __name__ == "__main__":
    sys.exit(main())
