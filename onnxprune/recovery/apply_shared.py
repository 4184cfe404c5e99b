"""Weights that several nodes use, as every layer of ALBERT does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.grams import Sums
from onnxprune.calibration.operands import Operand
from onnxprune.calibration.stages import Stream
from onnxprune.patterns import Pattern
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.apply_layer import Solved, solve_layer


def solve_shared(
    work: Reconstruction,
    shared: Mapping[str, Sequence[Operand]],
    masks: Mapping[str, npt.NDArray[np.bool_]],
    pattern: Pattern,
    method: str,
    asked: str,
) -> Iterator[tuple[Operand, Solved]]:
    """Solve weights that several nodes use, for what these are in the dense network.

    The first of them is pruned before the last one's inputs are known, so they cannot make up
    for each other's loss: targets are their own dense outputs.

    Args:
        work: the dense network with its samples.
        shared: by tensor name, the operands of all nodes that use it.
        masks: by tensor name; what is kept, or where masks are searched only how much of it.
        pattern: the pattern of the masks.
        method: see :func:`~onnxprune.recovery.solve_layers.solve_layers`.
        asked: beginning of the names that answers are kept under.

    Yields:
        The first operand of each weight, and its solution.

    Raises:
        DataError: onnxruntime cannot run the model on the samples.
    """
    known = {name: work.journal.get(f"{asked} {name}") for name in shared}
    places = [
        (place, name, operand)
        for name, operands in shared.items()
        for operand in operands
        if known[name] is None and (place := work.stages.place_of(operand.layer.node)) is not None
    ]
    sums = {name: (Sums(), Sums()) for name in shared}
    dense = Stream(work.stages, work.feeds if places else ())
    for place, name, operand in sorted(places, key=lambda found: found[:2]):
        dense.advance(place)
        pairs = work.pairs(operand, dense, dense)
        for index in range(pairs.count):
            sums[name][work.held[index]].add(pairs.of(index, aim=False)[0])
    for name, operands in shared.items():
        held = known[name]
        if held is not None:
            yield operands[0], Solved.of_arrays(held)
            continue
        train, other = (s.result() if s.columns else None for s in sums[name])
        moments = train or other
        assert moments is not None
        weight = np.asarray(operands[0].layer.tensor.numpy()).astype(np.float64)
        with one_thread():
            solved = solve_layer(
                operands[0], weight, moments, other, pattern, masks[name],
                method=method, even=work.few,
            )  # fmt: skip
        work.journal.put(f"{asked} {name}", solved.as_arrays())
        yield operands[0], solved
