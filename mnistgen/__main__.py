"""`python -m mnistgen`."""

import sys

from mnistgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
