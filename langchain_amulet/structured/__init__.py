"""Tool calls and structured output: what an answer must look like, and the grammars that enforce it."""
