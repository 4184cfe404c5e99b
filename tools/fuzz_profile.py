"""pytest plugin: the hypothesis profile ``fuzz``, new examples every time and many of them."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "fuzz",
    max_examples=500,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
