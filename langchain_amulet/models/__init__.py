"""Loads models and tokenizers, and shares them within a process."""
