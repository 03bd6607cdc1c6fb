"""The two programs of the crash tests, as functions for the other scripts."""

import os
import re
import subprocess

PROGRAMS = os.path.join(
    os.environ.get("TARGET", os.path.join(os.path.dirname(__file__), "..", "target")), "release"
)
WRITER = os.path.abspath(os.path.join(PROGRAMS, "crash_writer"))
CHECKER = os.path.abspath(os.path.join(PROGRAMS, "crash_checker"))
# The message about a full disk: bytes needed and free.
NO_SPACE = re.compile(r"(\d+) bytes were needed, (\d+) are free")


class Fault(Exception):
    """A check that failed."""


def require_programs():
    for program in (WRITER, CHECKER):
        if not os.access(program, os.X_OK):
            raise SystemExit(
                f"{program} is not there; cargo build --release -p vecstore-examples (TARGET names another target directory)"
            )


def check(store, least):
    """Number of batches in `store`. Raises a fault if it is not whole or has fewer than `least`."""
    done = subprocess.run([CHECKER, store, str(least)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(done.stderr.strip() or f"crash_checker ended with {done.returncode}")
    return int(done.stdout.rsplit("BATCHES ", 1)[1])


def write(store, batches, options):
    """Runs a writer to its end; it must succeed. Returns the number of batches it acknowledged."""
    done = subprocess.run(
        [WRITER, store, str(batches), *options], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or done.stderr:
        raise Fault(f"a writer that was to succeed ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.count("\n")


def leftovers(place):
    """Everything below `place` with a name of unfinished work."""
    return sorted(
        os.path.join(folder, name)
        for folder, folders, files in os.walk(place)
        for name in folders + files
        if name.startswith("tmp-") or ".creating-" in name
    )
