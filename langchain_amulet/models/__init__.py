"""Loading models and tokenizers, and sharing them within a process."""
