"""Reports in Markdown and HTML, with tables and plots.

sections.py defines the contents of each section.
"""
