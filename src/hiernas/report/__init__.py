"""The report of a run: one HTML page that needs no network, with the figures drawn inside."""

from hiernas.report.page import words, write_report

__all__ = ["words", "write_report"]
