"""What a long command would do, before it does it: images, layers, genes, time and memory."""

from cnnsplitter.planning.base import Plan
from cnnsplitter.planning.plans import plan_patch, plan_run, plan_split
from cnnsplitter.planning.subtasks import plan_subtask

__all__ = ["Plan", "plan_patch", "plan_run", "plan_split", "plan_subtask"]
