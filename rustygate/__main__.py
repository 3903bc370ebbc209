"""`python -m rustygate` is `rustygate`."""

import sys

from rustygate.cli import main

sys.exit(main())
