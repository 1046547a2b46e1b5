"""Measures to a page and figures."""

from atp.report.page import report_stage

__all__ = ["report_stage"]
