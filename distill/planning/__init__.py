"""What a training will hold in memory and cost, before anything is loaded."""

from distill.planning.communication import traffic
from distill.planning.configs import Shape, cut, read_config, shape_of
from distill.planning.plan import Plan, changed, plan
from distill.planning.setting import OPTIMISERS, SHARDINGS, Setting
from distill.planning.tables import advice, cost_table, gib, matrix_rate, memory_table

__all__ = [
    "OPTIMISERS",
    "SHARDINGS",
    "Plan",
    "Setting",
    "Shape",
    "advice",
    "changed",
    "cost_table",
    "cut",
    "gib",
    "matrix_rate",
    "memory_table",
    "plan",
    "read_config",
    "shape_of",
    "traffic",
]
