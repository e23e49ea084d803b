"""Personal data and secrets in pairs: found, shown without their values, replaced by stand-ins. docs/how-to/private.md says how well."""

from distill.curation.private.finding import find
from distill.curation.private.kinds import KINDS, Found, check_private, kinds_of
from distill.curation.private.standins import StandIns
from distill.curation.private.step import WAYS, clean_private

__all__ = ["KINDS", "WAYS", "Found", "StandIns", "check_private", "clean_private", "find", "kinds_of"]
