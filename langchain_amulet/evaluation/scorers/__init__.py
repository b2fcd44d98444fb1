"""Scorers: functions from an answer to a number.

A new scorer is a function that returns a `Scorer`.
"""
