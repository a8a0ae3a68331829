"""What every test starts from."""

from __future__ import annotations

import signal

# A shell starts what runs in the background without Ctrl-C, and programs that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
