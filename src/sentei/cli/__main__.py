"""`python -m sentei.cli`."""

import sys

from sentei.cli import main

if __name__ == "__main__":
    sys.exit(main())
