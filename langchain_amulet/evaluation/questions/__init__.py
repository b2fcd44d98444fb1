"""Question sets and the preferences that they are asked with."""
