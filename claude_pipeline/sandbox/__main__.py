"""Run a sandbox in a process of its own: `python -m claude_pipeline.sandbox --port 0`."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from math import inf
from pathlib import Path

from claude_pipeline.sandbox.errors import DataError, ListenError
from claude_pipeline.sandbox.running import Sandbox, run_sandbox


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the URL once the sandbox accepts connections, and serve until Ctrl-C."""
    options = vars(_parser().parse_args(arguments))
    rates, idle_seconds = dict(options.pop("error_rate")), options.pop("idle_seconds")
    try:
        sandbox = Sandbox(**options, error_rates=rates)
        run_sandbox(sandbox, on_ready=_print_url, idle_seconds=idle_seconds)
    except (DataError, ListenError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _print_url(sandbox: Sandbox) -> None:
    sys.stdout.write(f"{sandbox.url}\n")
    sys.stdout.flush()


def _rate(text: str) -> tuple[str, float]:
    error_type, _, share = text.partition("=")
    return error_type, float(share)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m claude_pipeline.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--batch-seconds", type=float, default=0.0, help="how long a batch takes")
    parser.add_argument("--error-rate", type=_rate, action="append", default=[], metavar="TYPE=SHARE")
    parser.add_argument("--expire-rate", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--max-queued-requests", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", default="sandbox")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the batches here")
    parser.add_argument("--idle-seconds", type=float, default=inf, help="stop when nobody has asked for so long")
    parser.add_argument("--conformance", action="store_true", help="know every id, for other clients' own tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
