"""Reports in Markdown and HTML, with their tables and plots."""
