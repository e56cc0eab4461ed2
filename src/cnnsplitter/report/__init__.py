"""The report of a run; ``report.page`` makes one HTML file of it that needs no network."""

from cnnsplitter.report.evidence import Evidence, gather_evidence
from cnnsplitter.report.facts import Report, Step, kept_by_layer, read_report

__all__ = ["Evidence", "Report", "Step", "gather_evidence", "kept_by_layer", "read_report"]
