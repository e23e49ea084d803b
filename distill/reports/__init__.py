"""What people are shown: the report, the model card, where everything came from; pictures and page templates."""

from distill.reports.card import write_card
from distill.reports.report import write_report

__all__ = ["write_card", "write_report"]
