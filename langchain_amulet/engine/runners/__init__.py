"""Runners execute the model over rows of keys and values."""
