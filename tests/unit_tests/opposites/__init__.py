"""Tests of the opposites of preferences."""
