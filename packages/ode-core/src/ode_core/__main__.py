"""`python -m ode_core` is `ode`."""

import sys

from ode_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
