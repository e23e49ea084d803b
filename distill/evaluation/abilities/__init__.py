"""Abilities: small probes that a program can check, made by code with seeds and so in nobody's training data."""

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.examining import examine, shares, shows_tools
from distill.evaluation.abilities.knowledge import Fact
from distill.evaluation.abilities.making import probes
from distill.evaluation.abilities.probe import ABILITIES, Answered, Probe

__all__ = ["ABILITIES", "Answered", "Check", "Fact", "Probe", "examine", "probes", "shares", "shows_tools"]
