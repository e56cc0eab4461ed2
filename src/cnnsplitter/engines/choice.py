"""Engines by name, as the command line gives them."""

from cnnsplitter.engines.base import Engine, InProcess
from cnnsplitter.engines.cluster import RayCluster
from cnnsplitter.engines.local import Processes
from cnnsplitter.errors import SettingsError, require_known

ENGINES = ("local", "ray")


def choose_engine(
    name: str = "local", workers: int | None = None, ray_address: str | None = None
) -> Engine:
    """Return an engine.

    Args:
        name: ``local`` for this machine, ``ray`` for a Ray cluster.
        workers: Processes that run candidates; None means this one alone, or with Ray one for each
            processor core of the cluster.
        ray_address: Address of a running cluster; None starts Ray on this machine.

    Raises:
        SettingsError: An unknown name, or an address without Ray.
    """
    require_known("engine", name, ENGINES)
    if name == "ray":
        return RayCluster(workers, ray_address)
    if ray_address is not None:
        raise SettingsError(f"--ray-address {ray_address} needs --engine ray")
    return InProcess() if workers is None else Processes(workers)
