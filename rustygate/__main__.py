"""Lets `python -m rustygate` run the command line."""

import sys

from rustygate.cli import main

sys.exit(main())
