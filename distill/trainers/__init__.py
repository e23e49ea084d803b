"""The two trainers; both are `transformers.Trainer`s."""

from distill.trainers.black_box import BlackBoxTrainer
from distill.trainers.rollouts import Rollouts
from distill.trainers.white_box import WhiteBoxTrainer

__all__ = ["BlackBoxTrainer", "Rollouts", "WhiteBoxTrainer"]
