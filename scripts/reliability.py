"""What generation survives: a server that fails, kill -9, a disk that fills up, damaged files. Prints Markdown tables.

    python scripts/reliability.py all              # everything below, about 15 minutes on two cores
    python scripts/reliability.py faults           # 2,000 requests, 30% of them fail, in eight ways
    python scripts/reliability.py kills            # 50 kill -9 of a run against a server, 50 of a local one
    python scripts/reliability.py disk             # disks of 13 sizes, each too small
    python scripts/reliability.py fuzz             # 500 examples of each test in tests/pairs/test_fuzz.py
    python scripts/reliability.py journal          # appends a second, and how fast 100,000 rows open

Each ends with status 1 if anything differs from the unbroken run. Needs the `dev` extra.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))  # the fake server, the fault proxy and the fuzzing are those of the tests

import journal_speed  # noqa: E402
import killing  # noqa: E402
from failing import failing_server, full_disks, fuzzing  # noqa: E402


def main() -> None:
    """Run one section, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["all", "faults", "kills", "disk", "fuzz", "journal"])
    parser.add_argument("--requests", type=int, default=2000, help="of faults")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=300, help="of the run that is killed")
    parser.add_argument("--teachers", nargs="+", choices=killing.TEACHERS, default=list(killing.TEACHERS))
    parser.add_argument("--examples", type=int, default=500, help="of each fuzz test")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    sections: dict[str, Callable[[Path], bool]] = {
        "faults": lambda folder: failing_server(folder, flags.requests, flags.seed),
        "kills": lambda folder: killing.kills(folder, flags.teachers, flags.kills, flags.rows, flags.seed),
        "disk": full_disks,
        "fuzz": lambda _: fuzzing(flags.examples),
        "journal": journal_speed.measure,
    }
    chosen = sections if flags.section == "all" else {flags.section: sections[flags.section]}
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name, section in chosen.items():
            place = Path(folder) / name
            place.mkdir()
            good &= section(place)
    print("Everything as in the unbroken run." if good else "SOMETHING DIFFERS: see above.", flush=True)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
