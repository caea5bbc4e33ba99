"""`python -m beyondprop` is the command line."""

import sys

from beyondprop.cli import main

sys.exit(main())
