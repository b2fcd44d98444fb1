"""Datasets of questions, and the preferences to answer them for."""
