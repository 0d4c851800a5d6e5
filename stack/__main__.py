"""Start the command line; Ctrl-C while Python still loads it ends quietly."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stack.cli import main

    sys.exit(main())
