"""Stores the answers and scores of an evaluation, so that it can be resumed."""
