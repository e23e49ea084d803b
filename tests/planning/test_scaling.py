"""The fits of the cost curves, on points whose law is known."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from slopes import fit_line, fit_square, picture

X = [128, 256, 512, 1024, 2048, 4096]


def test_a_line_is_found_again_with_its_start_and_exponents():
    line = fit_line(X, [3 + 0.5 * x for x in X])
    assert (line.start, line.slope) == (pytest.approx(3), pytest.approx(0.5))
    assert line.residual < 1e-9
    assert line(100) == pytest.approx(53)
    assert 0.9 < line.exponent < line.last < 1


def test_a_power_is_seen_as_what_it_is():
    line = fit_line(X, [x**1.5 for x in X])
    assert (line.exponent, line.last) == (pytest.approx(1.5), pytest.approx(1.5))
    assert line.residual > 0.2  # and no straight line


def test_a_square_is_told_from_a_line():
    start, linear, square, residual = fit_square(X, [2 + 0.1 * x + 1e-4 * x * x for x in X])
    assert (start, linear, square) == (pytest.approx(2), pytest.approx(0.1), pytest.approx(1e-4))
    assert residual < 1e-9
    assert fit_square(X, [0.1 * x for x in X])[2] == pytest.approx(0, abs=1e-9)


def test_what_falls_has_no_negative_slope():
    line = fit_line([1, 2, 4], [3.0, 2.9, 2.8])
    assert line.slope == 0
    assert line.start > 0


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [1, 0, 2])])
def test_points_that_show_nothing_are_refused(x, y):
    with pytest.raises(ValueError, match="fewer than three|above 0"):
        fit_line(x, y)


def test_the_same_points_give_the_same_picture():
    pytest.importorskip("matplotlib")
    drawn = [picture({"step": [1.0, 2, 4]}, [1, 2, 4], ("x", "y"), "one", {"step": lambda x: x}) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("<svg")
