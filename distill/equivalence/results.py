"""What a section of the demonstration says: claims that could have come out otherwise, and the figures behind them."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One statement with its measurement.

    Args:
        text: the statement, in words.
        measured: what was seen, in words and figures.
        holds: whether it came out as stated; None: not tried, and `measured` says why.
    """

    text: str
    measured: str
    holds: bool | None


@dataclass
class Section:
    """One part of the demonstration.

    Args:
        name: as in `--sections`.
        claims: what it shows.
        data: figures for the pictures and for `equivalence.json`; plain values only.
    """

    name: str
    claims: list[Claim] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def claim(self, text: str, measured: str, holds: bool | None) -> None:
        """Add one claim."""
        self.claims.append(Claim(text, measured, None if holds is None else bool(holds)))

    def claim_unless(self, reasons: list[str], text: str, measured: str, holds: bool) -> None:
        """Add a claim of equality bit for bit; with `reasons` why it cannot be expected, it is not claimed."""
        if reasons:
            self.claim(text, f"{measured}; not claimed: {'; '.join(reasons)}", None)
        else:
            self.claim(text, measured, holds)

    @property
    def failed(self) -> list[Claim]:
        """Claims that came out otherwise."""
        return [claim for claim in self.claims if claim.holds is False]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
