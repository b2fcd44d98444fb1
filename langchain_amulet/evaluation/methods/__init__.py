"""The decoding methods that an evaluation compares."""
