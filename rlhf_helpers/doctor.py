"""`python -m rlhf_helpers.doctor`: see `desk/doctor`."""

import sys

from .desk.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
