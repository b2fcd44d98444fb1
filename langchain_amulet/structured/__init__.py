"""Tool calls and structured output: what an answer may contain, and grammars that enforce it."""
