"""Tools with plugins and pins of their own, run by uv in an environment that ours knows nothing of."""

import os
import subprocess
import sys

# As it was before our own fixtures (uv's cache lies in the home), and without the settings of our own pytest.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
UV = ("uv", "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable)


def run_isolated(*command, needs, **options):
    """Run a command with the packages that it needs, and return how it ended and what it said."""
    options = {"env": ENVIRONMENT, **options}
    with_needs = [argument for need in needs for argument in ("--with", need)]
    return subprocess.run(
        [*UV, *with_needs, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
        **options,
    )
