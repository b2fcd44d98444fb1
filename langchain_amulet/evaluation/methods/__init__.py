"""Decoding methods that an evaluation compares.

A new method is a function that returns a `Method`.
"""
