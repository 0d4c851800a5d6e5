"""Run another of these programs in a child of `multiprocessing`."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    program = Path(__file__).with_name(f"{sys.argv.pop(1)}.py")
    child = multiprocessing.get_context("fork").Process(
        target=runpy.run_path, args=(str(program),), kwargs={"run_name": "__main__"}
    )
    child.start()
    child.join(30)
    sys.exit(child.exitcode)
