"""Random graphs: the shrunk model is the masked one, whatever was pruned.

``ONNXPRUNE_FUZZ_EXAMPLES`` sets the number of graphs; ``make fuzz`` draws new ones until its time
is up.
"""

from __future__ import annotations

import os

from graphs.feeds import random_feeds
from hypothesis import event, given, settings
from hypothesis import strategies as st
from prune_checks import check_prune, close, run
from random_graphs import Case, cases
from random_wide import wide_cases

import onnxprune.api as onnxprune

# Under another profile (make fuzz) the profile says how many.
EXAMPLES = int(os.environ.get("ONNXPRUNE_FUZZ_EXAMPLES", "0")) or (
    150 if settings().derandomize else settings().max_examples
)


@settings(max_examples=EXAMPLES)
@given(
    case=cases(),
    sparsity=st.sampled_from([0.5, 0.3, 0.8]),
    criterion=st.sampled_from(["random", "l1"]),
    align=st.sampled_from([1, 1, 1, 2]),
    seed=st.integers(0, 99),
)
def test_shrunk_equals_masked(
    case: Case, sparsity: float, criterion: str, align: int, seed: int
) -> None:
    shrunk_is_masked(case, sparsity, criterion, align, seed)


@settings(max_examples=EXAMPLES)
@given(
    case=wide_cases(),
    sparsity=st.sampled_from([0.5, 0.3, 0.8]),
    criterion=st.sampled_from(["random", "l1"]),
    align=st.sampled_from([1, 1, 1, 2]),
    seed=st.integers(0, 99),
)
def test_shrunk_equals_masked_over_the_wide_set(
    case: Case, sparsity: float, criterion: str, align: int, seed: int
) -> None:
    shrunk_is_masked(case, sparsity, criterion, align, seed)


def shrunk_is_masked(case: Case, sparsity: float, criterion: str, align: int, seed: int) -> None:
    feeds = random_feeds(case.model, case.sizes, seed)
    options = {"sparsity": sparsity, "criterion": criterion, "align": align, "seed": seed}
    result = check_prune(case.model, feeds, **options)
    event("units removed" if result.report["units"]["removed"] else "nothing to remove")
    if case.other:
        masked = onnxprune.prune(case.model, plan=result.plan, mask_only=True, proof=False)
        other = random_feeds(case.model, case.other, seed)
        close(run(masked.model, other), run(result.model, other))
