"""Which user makes a call, and what that user prefers."""
