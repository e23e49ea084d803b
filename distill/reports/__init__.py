"""What people are shown: the report, the model card, where everything came from; pictures and page templates."""

from typing import TYPE_CHECKING

from distill.basics.lazy import lazy_names

if TYPE_CHECKING:
    from distill.reports.card import write_card
    from distill.reports.report import write_report

__all__ = ["write_card", "write_report"]

__getattr__ = lazy_names(__name__, {"write_card": "distill.reports.card", "write_report": "distill.reports.report"})
