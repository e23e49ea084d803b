"""Tables of the benchmark scripts."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from measuring import earlier_tables


def test_a_kept_table_stays_with_the_machine_it_was_measured_on(tmp_path):
    """A page once had one machine for all: that of the last run, whatever was kept from others."""
    path = tmp_path / "tables.json"
    assert earlier_tables(path) == {}
    path.write_text(json.dumps({"Machine": "an old card", "Head": "| ms |"}))
    kept = earlier_tables(path)
    assert kept == {"Head": "an old card\n\n| ms |"}
    path.write_text(json.dumps({**kept, "Step": "a new card\n\n| ms |"}))
    assert earlier_tables(path) == {**kept, "Step": "a new card\n\n| ms |"}
