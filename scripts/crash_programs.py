"""The two programs of the crash tests, as the other scripts here drive them."""

import os
import re
import subprocess

PROGRAMS = os.path.join(
    os.environ.get("TARGET", os.path.join(os.path.dirname(__file__), "..", "target")), "release"
)
WRITER = os.path.abspath(os.path.join(PROGRAMS, "crash_writer"))
CHECKER = os.path.abspath(os.path.join(PROGRAMS, "crash_checker"))
# A message about a full disk: what was needed and what is free.
NO_SPACE = re.compile(r"(\d+) bytes were needed, (\d+) are free")


class Fault(Exception):
    """Something that must not be."""


def require_programs():
    for program in (WRITER, CHECKER):
        if not os.access(program, os.X_OK):
            raise SystemExit(
                f"{program} is not there; cargo build --release -p vecstore-examples (TARGET names another target directory)"
            )


def check(store, least):
    """How many batches `store` holds; a fault where it is not whole or holds fewer than `least`."""
    done = subprocess.run([CHECKER, store, str(least)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(done.stderr.strip() or f"crash_checker ended with {done.returncode}")
    return int(done.stdout.rsplit("BATCHES ", 1)[1])


def write(store, batches, options):
    """Runs a writer to its end; it must succeed. How many batches it acknowledged."""
    done = subprocess.run(
        [WRITER, store, str(batches), *options], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or done.stderr:
        raise Fault(f"a writer that was to succeed ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.count("\n")


def leftovers(place):
    """Everything below `place` that has the name of something unfinished."""
    return sorted(
        os.path.join(folder, name)
        for folder, folders, files in os.walk(place)
        for name in folders + files
        if name.startswith("tmp-") or ".creating-" in name
    )
