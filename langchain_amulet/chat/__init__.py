"""What one call of the chat model is: its settings, its request and its answer."""
