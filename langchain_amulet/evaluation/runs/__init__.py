"""The folder in which an evaluation is kept, so that it can be resumed."""
