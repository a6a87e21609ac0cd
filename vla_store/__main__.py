"""`python -m vla_store`: the same as `vla-store`."""

import sys

from vla_store.cli import main

if __name__ == "__main__":
    sys.exit(main())
