"""The report of a run; ``report.page`` makes one HTML file of it that needs no network."""

from cnnsplitter.report.evidence import Evidence, gather_evidence
from cnnsplitter.report.facts import Report, Step, find_reports, read_report
from cnnsplitter.report.gathering import (
    PatchFacts,
    data_row,
    made_by,
    model_costs,
    report_patches,
)
from cnnsplitter.report.splits import report_split, report_subtask, search_facts

__all__ = [
    "Evidence",
    "PatchFacts",
    "Report",
    "Step",
    "data_row",
    "find_reports",
    "gather_evidence",
    "made_by",
    "model_costs",
    "read_report",
    "report_patches",
    "report_split",
    "report_subtask",
    "search_facts",
]
