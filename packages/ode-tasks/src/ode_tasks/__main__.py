"""`python -m ode_tasks` is `ode`, for launchers that take a module: torchrun -m ode_tasks."""

from __future__ import annotations

import sys

from ode_core.cli import main

sys.exit(main())
