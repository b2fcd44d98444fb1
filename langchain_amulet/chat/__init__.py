"""One call of the chat model: its settings, its request and its answer."""
