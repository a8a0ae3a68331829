"""The campaigns at full length, and their counts: python -m tests.crash.soak --help."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.crash.campaigns import fill_disks, fill_tmpfs, inject_faults, send_signals
from tests.crash.harness import Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, help="at most (default: every one)")
    parser.add_argument("--resumed", type=int, help="the same in runs that are resumed")
    parser.add_argument("--signals", type=int, default=1000)
    parser.add_argument("--sizes", type=int, default=500)
    parser.add_argument("--tmpfs", type=int, default=0, help="sizes of mounted file systems; needs the right to mount")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    campaigns: dict[str, Callable[[Server], Counter[str]]] = {
        "resumed": lambda server: inject_faults(server.resumed, arguments.seed, arguments.resumed),
        "faults": lambda server: inject_faults(server.cases, arguments.seed, arguments.faults),
        "signals": lambda server: send_signals(server, arguments.seed, arguments.signals),
        "sizes": lambda server: fill_disks(server, arguments.seed, arguments.sizes),
        "tmpfs": lambda server: fill_tmpfs(server, arguments.seed, arguments.tmpfs),
    }
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder).resolve())
        server.failures = failures
        for name, campaign in campaigns.items():
            if getattr(arguments, name) == 0:
                continue
            started = time.monotonic()
            counts = campaign(server)
            told = {"campaign": name, "seed": arguments.seed, "seconds": round(time.monotonic() - started)}
            print(json.dumps(told | dict(sorted(counts.items()))), flush=True)
        server.close()
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
