"""Tool calls and structured output: what an answer may contain, and the grammars that enforce it."""
