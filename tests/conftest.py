"""Settings for all tests: few, reproducible examples, and one thread, which suits toy networks."""

import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=300)
settings.load_profile("default")
torch.set_num_threads(1)
