"""Scorers: functions from an answer to a number."""
