"""The fault matrix: `make faults`. Cases are in `faults/`, what a case is in `case.py`."""

FAIL_POINT_VARIABLE = "FAIL_POINT_FILE"
"""Names the file that arms a point of `failpoints.py`; it holds the point's name."""
