"""Engines: where candidates are run; each gives the same scores, bit for bit."""

from cnnsplitter.engines.base import Engine, InProcess
from cnnsplitter.engines.choice import ENGINES, choose_engine
from cnnsplitter.engines.cluster import RayCluster
from cnnsplitter.engines.local import Processes

__all__ = ["ENGINES", "Engine", "InProcess", "Processes", "RayCluster", "choose_engine"]
