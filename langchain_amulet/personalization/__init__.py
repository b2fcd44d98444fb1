"""Finds the user of a call and looks up their preferences."""
