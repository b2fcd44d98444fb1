"""The command `amulet trace`: answers a question, and writes a page that shows how each token was drawn."""
