"""Learning the weights of preferences from feedback."""

from langchain_amulet.feedback.bradley_terry import LearningConfig
from langchain_amulet.feedback.learner import Explanation, FeedbackEffect, FeedbackLearner, WeightReport

__all__ = ["Explanation", "FeedbackEffect", "FeedbackLearner", "LearningConfig", "WeightReport"]
