"""Every family of docs/reference/architectures.md against the library: a signal equals its naive reference or is refused as the page says."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from architectures import PAGE, exists, outcome, read_page, write_page
from families import FAMILIES

ROWS = {row.family: row for row in read_page(PAGE.read_text())[0]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several are slower for such small models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_as_the_page_says(family):
    if not exists(family):
        pytest.skip(f"the installed transformers has no {family}")
    assert outcome(family) == ROWS[family]


def test_the_page_has_every_family_and_nothing_else():
    outcomes, version = read_page(PAGE.read_text())
    assert [row.family for row in outcomes] == list(FAMILIES)
    assert write_page(outcomes, version) == PAGE.read_text()
