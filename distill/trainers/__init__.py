"""The two trainers; both are `transformers.Trainer`s."""

from distill.trainers.black_box import BlackBoxTrainer
from distill.trainers.white_box import WhiteBoxTrainer

__all__ = ["BlackBoxTrainer", "WhiteBoxTrainer"]
