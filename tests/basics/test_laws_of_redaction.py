"""Laws of what is removed: a secret is removed whole, however many others are in the environment, and whichever way round."""

import itertools

import pytest

from distill.basics.redact import REMOVED, clean, secret_in

SHORT = "correct-horse"
SECRETS = {"begins": f"{SHORT}-battery", "ends": f"battery-{SHORT}", "around": f"my-{SHORT}-staple"}


@pytest.mark.parametrize("longer", SECRETS.values(), ids=SECRETS)
def test_a_secret_that_holds_another_one_is_removed_whole(monkeypatch, longer):
    """Whichever of the two was set first."""
    for order in itertools.permutations([("FIRST_TOKEN", SHORT), ("OTHER_API_KEY", longer)]):
        for name, value in order:
            monkeypatch.setenv(name, value)
        assert clean(f"asked with {longer}, then with {SHORT}.") == f"asked with {REMOVED}, then with {REMOVED}."
        assert clean({longer: [longer, SHORT]}) == {REMOVED: [REMOVED, REMOVED]}
        assert secret_in([longer]) is not None
        for name, _ in order:
            monkeypatch.delenv(name)


@pytest.mark.parametrize("length", [7, 8, 9])
def test_a_secret_is_removed_from_eight_characters_on(monkeypatch, length):
    """Shorter values (a port, "none") are words of everyday text."""
    secret = "zq7xkvw3p"[:length]
    monkeypatch.setenv("MY_PASSWORD", secret)
    assert clean(f"it is {secret}.") == f"it is {REMOVED if length >= 8 else secret}."
    assert (secret_in([secret]) is not None) is (length >= 8)
