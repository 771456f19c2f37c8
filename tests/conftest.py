"""Settings of the whole test run."""

from __future__ import annotations

import signal

# A shell starts its background jobs with SIGINT ignored, and what they start inherits that: a test that interrupts a
# command would wait for ever. A handler of our own is not inherited, so the commands take the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
