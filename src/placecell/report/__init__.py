"""A run as one HTML file that needs nothing else: numbers, curves, a 3-D view, and the pictures it failed on."""

from placecell.report.page import write_report

__all__ = ["write_report"]
