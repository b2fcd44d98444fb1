"""Speculation: proposes tokens that are likely to follow, so that one forward can give several tokens of an answer."""
