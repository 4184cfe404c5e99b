"""What layers multiply, out of a stream: a live value, or what a recurrent layer's own steps make.

``W`` of an LSTM, GRU or RNN multiplies the rows of its input, in every direction the same ones;
``R`` multiplies the hidden state one step before, which is the layer's output ``Y`` moved by one
step along time with ``initial_h`` in front (ONNX operators LSTM, GRU, RNN). Steps behind the end of
a sequence (``sequence_lens``) are left out of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune.calibration.operands import RECURRENT, Operand
from onnxprune.calibration.stages import Stream

Array = npt.NDArray[Any]
#: Inputs of the recurrent operators.
DATA, LENGTHS, STATE = 0, 4, 5


def inputs_of(stream: Stream, operand: Operand) -> list[Array]:
    """Return the data operand of a layer, an array a feed, as :class:`Operand` takes it.

    For recurrent layers these are the live value [steps, batch, d], or rows [N, d], of ``W``, and
    rows [N, directions * d] of ``R``. Where a GRU resets the state before ``R`` is applied
    (``linear_before_reset`` = 0), the rows of its third gate multiply the reset state instead; that
    gate is then solved on the statistics of the state as it is, an approximation.

    Args:
        stream: advanced to the layer's node, which has not run.
        operand: the layer.

    Raises:
        DataError: onnxruntime cannot run the recurrent layer.
    """
    node = operand.layer.node
    if node.op_type not in RECURRENT:
        return [values[operand.source] for values in stream.values]
    place = stream.stages.place_of(node)
    assert place == stream.at
    proto = onnx.NodeProto()
    proto.CopyFrom(stream.edits.get(place, stream.stages.nodes[place]))
    names = [name if i in (DATA, LENGTHS, STATE) else "" for i, name in enumerate(proto.input)]
    names += [""] * (STATE + 1 - len(names))
    if not operand.state and not names[LENGTHS]:
        return [v[0] for v in stream.peek([], [names[DATA]])]
    if not operand.state:
        both = stream.peek([], [names[DATA], names[LENGTHS]])
        return [x[_valid(len(x), lengths)] for x, lengths in both]
    output = proto.output[0] if proto.output and proto.output[0] else f"{proto.output[-1]}:steps"
    proto.output[0] = output
    wanted = [name for name in (names[LENGTHS], names[STATE]) if name]
    direction = node.attributes.get_string("direction", "forward")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    found = []
    for steps, *more in stream.peek([proto], [output, *wanted]):
        lengths = more.pop(0) if names[LENGTHS] else None
        found.append(before(steps, ways, lengths, more.pop() if names[STATE] else None))
    return found


def before(
    steps: Array, backward: Sequence[bool], lengths: Array | None, initial: Array | None
) -> Array:
    """Return the hidden state that every step starts from.

    Args:
        steps: hidden states after every step [T, directions, batch, h].
        backward: a flag a direction.
        lengths: steps of every sequence [batch]; None for T.
        initial: states at the start [directions, batch, h]; None for zeros.

    Returns:
        Rows [N, directions * h], one for every step of a sequence, time first.
    """
    count, _, batch, _ = steps.shape
    ends = np.full(batch, count) if lengths is None else np.asarray(lengths).astype(np.int64)
    moved = np.zeros_like(steps)
    for way, back in enumerate(backward):
        start = 0.0 if initial is None else initial[way]
        if back:
            moved[:-1, way] = steps[1:, way]
            moved[ends - 1, way, np.arange(batch)] = start
        else:
            moved[1:, way] = steps[:-1, way]
            moved[:1, way] = start
    rows = moved.transpose(0, 2, 1, 3)[_valid(count, ends)]
    joined: Array = rows.reshape(len(rows), -1)
    return joined


def _valid(steps: int, lengths: Array) -> npt.NDArray[np.bool_]:
    """Which steps [T, batch] are within their sequence."""
    valid: npt.NDArray[np.bool_] = np.arange(steps)[:, None] < np.asarray(lengths)[None, :]
    return valid
