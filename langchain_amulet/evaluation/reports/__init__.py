"""Reports in Markdown and HTML, with tables and plots. sections.py lists what each section contains."""
