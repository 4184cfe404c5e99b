"""Derivatives of GRU, LSTM and RNN, a step of time after the other (backpropagation through time).

Hidden states are the node's own output ``Y``, so gates are computed for all steps at once; only the
derivative itself runs from the last step to the first. Equations and the order of gates are those
of the ONNX operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from onnxprune.gradients.backward import NoGradient, View, rule
from onnxprune.gradients.emit import Emitter

Parts = Sequence[str | None]
#: Steps of time written out at most.
MOST_STEPS = 256
#: Inputs of the operators.
X, W, R, B, LENGTHS, STATE, CELL = range(7)


@dataclass
class _Way:
    """One direction, its time turned so that it runs forward; everything is [T, B, ...].

    Attributes:
        e: where nodes go.
        x, before, after: inputs, and hidden states before and after every step.
        w, r: weights [K * h, I] and [K * h, h].
        wb, rb: biases [K * h].
        dy: derivative of ``after`` [T, B, h].
        cell: LSTM: cell state at the start [1, B, h].
        dcell: LSTM: derivative of the one at the end, or None.
    """

    e: Emitter
    x: str
    before: str
    after: str
    w: str
    r: str
    wb: str
    rb: str
    dy: str
    cell: str
    dcell: str | None
    steps: int
    hidden: int

    def product(self, rows: str, weight: str, bias: str) -> str:
        """``rows weight^T + bias``."""
        e = self.e
        return e.binary("Add", e.matmul(rows, e.transpose(weight, [1, 0])), bias)

    def gate(self, array: str, index: int) -> str:
        """One of the K parts of the last axis."""
        at = index * self.hidden
        return self.e.slices(array, [2], [at], [at + self.hidden], [1])

    def part(self, matrix: str, first: int, last: int) -> str:
        """Rows of gates ``first`` to ``last`` of a weight or bias."""
        return self.e.slices(matrix, [0], [first * self.hidden], [last * self.hidden], [1])

    def at(self, array: str, step: int) -> str:
        """One step [1, B, ...]."""
        return self.e.slices(array, [0], [step], [step + 1], [1])

    def summed(self, left: str, right: str) -> str:
        """``left^T right`` over all steps and samples."""
        e = self.e
        a = e.reshape(left, [int(np.prod(e.shapes[left][:2])), e.shapes[left][2]])
        b = e.reshape(right, [int(np.prod(e.shapes[right][:2])), e.shapes[right][2]])
        return e.matmul(e.transpose(a, [1, 0]), b)

    def one_minus(self, x: str) -> str:
        """``1 - x``."""
        return self.e.binary("Sub", self.e.const(np.float32(1)), x)

    def slope(self, gate: str) -> str:
        """Derivative of the logistic function by its value."""
        return self.e.mul(gate, self.one_minus(gate))


@dataclass(frozen=True)
class _Found:
    """Derivatives of one direction: of ``x``, ``w``, ``r``, both biases and the first states."""

    dx: str
    dw: str
    dr: str
    db: str
    dstate: str
    dcell: str | None = None


def _add(e: Emitter, left: str | None, right: str) -> str:
    return right if left is None else e.binary("Add", left, right)


def _gru(way: _Way, v: View) -> _Found:
    e = way.e
    late = bool(v.attr("linear_before_reset", 0))
    a = way.product(way.x, way.w, way.wb)
    b = way.product(way.before, way.r, way.rb)
    z, r = (e.unary("Sigmoid", e.binary("Add", way.gate(a, i), way.gate(b, i))) for i in (0, 1))
    if late:
        inner = e.mul(r, way.gate(b, 2))
    else:
        reset = e.mul(r, way.before)
        inner = way.product(reset, way.part(way.r, 2, 3), way.part(way.rb, 2, 3))
    n = e.unary("Tanh", e.binary("Add", way.gate(a, 2), inner))
    by_z = e.mul(e.binary("Sub", way.before, n), way.slope(z))
    by_n = e.mul(way.one_minus(z), way.one_minus(e.mul(n, n)))
    by_r = e.mul(way.gate(b, 2) if late else way.before, way.slope(r))
    first, last = way.part(way.r, 0, 2), way.part(way.r, 2, 3)
    carry: str | None = None
    rows: list[tuple[str, str]] = []
    for t in reversed(range(way.steps)):
        dh = _add(e, carry, way.at(way.dy, t))
        dz, dn = e.mul(dh, way.at(by_z, t)), e.mul(dh, way.at(by_n, t))
        through = dn if late else e.matmul(dn, last)
        dr = e.mul(through, way.at(by_r, t))
        gated = e.mul(through, way.at(r, t))
        both = e.concat([dz, dr], 2)
        carry = e.binary("Add", e.mul(dh, way.at(z, t)), e.matmul(both, first))
        carry = e.binary("Add", carry, e.matmul(gated, last) if late else gated)
        rows.append((e.concat([both, dn], 2), e.concat([both, gated], 2) if late else both))
    assert carry is not None
    da = e.concat([row[0] for row in reversed(rows)], 0)
    db = e.concat([row[1] for row in reversed(rows)], 0)
    if late:
        dr_all, dbias = way.summed(db, way.before), e.sum(db, [0, 1])
    else:
        states = way.summed(way.gate(da, 2), reset)
        dr_all = e.concat([way.summed(db, way.before), states], 0)
        dbias = e.sum(da, [0, 1])
    bias = e.concat([e.sum(da, [0, 1]), dbias], 0)
    return _Found(e.matmul(da, way.w), way.summed(da, way.x), dr_all, bias, carry)


def _lstm(way: _Way, v: View) -> _Found:
    if v.attr("input_forget", 0):
        raise NoGradient("LSTM: input and forget gate are one")
    e = way.e
    a = e.binary("Add", way.product(way.x, way.w, way.wb), way.product(way.before, way.r, way.rb))
    i, o, f = (e.unary("Sigmoid", way.gate(a, k)) for k in range(3))
    g = e.unary("Tanh", way.gate(a, 3))
    fresh = e.mul(i, g)
    cells = [way.cell]
    for t in range(way.steps):
        cells.append(e.binary("Add", e.mul(cells[-1], way.at(f, t)), way.at(fresh, t)))
    old = e.concat(cells[:-1], 0)
    bent = e.unary("Tanh", e.concat(cells[1:], 0))
    by_o = e.mul(bent, way.slope(o))
    by_c = e.mul(o, way.one_minus(e.mul(bent, bent)))
    by_i, by_f = e.mul(g, way.slope(i)), e.mul(old, way.slope(f))
    by_g = e.mul(i, way.one_minus(e.mul(g, g)))
    carry: str | None = None
    cell = way.dcell
    rows = []
    for t in reversed(range(way.steps)):
        dh = _add(e, carry, way.at(way.dy, t))
        dc = _add(e, cell, e.mul(dh, way.at(by_c, t)))
        parts = [e.mul(dc, way.at(by_i, t)), e.mul(dh, way.at(by_o, t)),
                 e.mul(dc, way.at(by_f, t)), e.mul(dc, way.at(by_g, t))]  # fmt: skip
        rows.append(e.concat(parts, 2))
        carry, cell = e.matmul(rows[-1], way.r), e.mul(dc, way.at(f, t))
    assert carry is not None
    return _plain(way, e.concat(rows[::-1], 0), carry, cell)


def _rnn(way: _Way, v: View) -> _Found:
    e = way.e
    by = way.one_minus(e.mul(way.after, way.after))
    carry: str | None = None
    rows = []
    for t in reversed(range(way.steps)):
        rows.append(e.mul(_add(e, carry, way.at(way.dy, t)), way.at(by, t)))
        carry = e.matmul(rows[-1], way.r)
    assert carry is not None
    return _plain(way, e.concat(rows[::-1], 0), carry, None)


def _plain(way: _Way, da: str, carry: str, cell: str | None) -> _Found:
    """Where inputs and states meet in one sum."""
    e = way.e
    bias = e.sum(da, [0, 1])
    return _Found(
        e.matmul(da, way.w), way.summed(da, way.x), way.summed(da, way.before),
        e.concat([bias, bias], 0), carry, cell,
    )  # fmt: skip


def _turned(e: Emitter, array: str) -> str:
    """Time backwards."""
    order = e.const(np.arange(e.shapes[array][0])[::-1].copy())
    return e.op("Gather", [array, order], e.shapes[array], axis=0)


def _checked(v: View, gates: int, usual: Sequence[str]) -> None:
    kind = v.node.op_type
    names = [*v.x, *[""] * (8 - len(v.x))]
    if names[LENGTHS] or names[7] or v.attr("layout", 0):
        raise NoGradient(f"{kind}: lengths of sequences, peepholes, or the batch first")
    told = [a.decode() if isinstance(a, bytes) else a for a in v.attr("activations", [])]
    if (told and [a.lower() for a in told] != [*usual] * (len(told) // len(usual))) or v.attr(
        "clip"
    ):
        raise NoGradient(f"{kind}: other activations than the usual ones")
    if v.shape(X)[0] > MOST_STEPS:
        raise NoGradient(f"{kind}: more than {MOST_STEPS} steps")
    if v.shape(W)[1] % gates:
        raise NoGradient(f"{kind}: weights of another size")


def _recurrent(v: View, gates: int, one: Callable[[_Way, View], _Found]) -> Parts:
    e = v.e
    steps, batch, _ = v.shape(X)
    ways, _, hidden = v.shape(R)
    zeros = e.const(np.zeros((1, batch, hidden), np.float32))
    names = [*v.x, *[""] * (8 - len(v.x))]
    output = v.node.output[0]
    if not output:
        output = f"{v.node.output[1]}/steps"
        again = helper.make_node(v.node.op_type, list(v.node.input), [output])
        again.attribute.extend(v.node.attribute)
        e.nodes.append(again)
        e.shapes[output] = (steps, ways, batch, hidden)
    direction = v.attr("direction", b"forward")
    backward = {b"forward": [False], b"reverse": [True], b"bidirectional": [False, True]}
    found: list[_Found] = []
    dx: str | None = None
    for index, back in enumerate(
        backward[direction if isinstance(direction, bytes) else direction.encode()]
    ):

        def own(array: str, axis: int, index: int = index) -> str:
            """This direction's part of an array, without that axis."""
            part = e.slices(array, [axis], [index], [index + 1], [1])
            shape = list(e.shapes[part])
            return e.reshape(part, [*shape[:axis], *shape[axis + 1 :]])

        size = gates * hidden
        bias = own(names[B], 0) if names[B] else e.const(np.zeros(2 * size, np.float32))
        state, cell = (
            e.reshape(own(names[k], 0), [1, batch, hidden]) if names[k] else zeros
            for k in (STATE, CELL)
        )
        after = own(output, 1)
        x = v.x[X]
        dy = None if v.dy[0] is None else own(v.dy[0], 1)
        if back:
            x, after = _turned(e, x), _turned(e, after)
            dy = None if dy is None else _turned(e, dy)
        if len(v.dy) > 1 and v.dy[1] is not None:
            end = e.reshape(own(v.dy[1], 0), [1, batch, hidden])
            late = e.pad(end, [steps - 1, 0, 0], [0, 0, 0])
            dy = late if dy is None else e.binary("Add", dy, late)
        if dy is None:  # only the last cell state is read
            dy = e.const(np.zeros((steps, batch, hidden), np.float32))
        dcell = None
        if len(v.dy) > 2 and v.dy[2] is not None:
            dcell = e.reshape(own(v.dy[2], 0), [1, batch, hidden])
        before = state
        if steps > 1:
            before = e.concat([state, e.slices(after, [0], [0], [steps - 1], [1])], 0)
        way = _Way(
            e, x, before, after, own(v.x[W], 0), own(v.x[R], 0),
            e.slices(bias, [0], [0], [size], [1]), e.slices(bias, [0], [size], [2 * size], [1]),
            dy, cell, dcell, steps, hidden,
        )  # fmt: skip
        done = one(way, v)
        found.append(done)
        dx = _add(e, dx, _turned(e, done.dx) if back else done.dx)

    def joined(parts: Sequence[str]) -> str:
        lifted = [e.reshape(p, [1, *e.shapes[p]]) for p in parts]
        return e.concat(lifted, 0) if len(lifted) > 1 else lifted[0]

    given: list[str | None] = [None] * len(v.x)
    made: dict[int, Callable[[], str | None]] = {
        X: lambda: dx,
        W: lambda: joined([f.dw for f in found]),
        R: lambda: joined([f.dr for f in found]),
        B: lambda: joined([f.db for f in found]),
        STATE: lambda: e.reshape(e.concat([f.dstate for f in found], 0), [ways, batch, hidden]),
        CELL: lambda: e.concat([f.dcell or zeros for f in found], 0),
    }
    for place, wanted in enumerate(v.wants):
        if wanted and place in made:
            given[place] = made[place]()
    return given


@rule("GRU")
def _gru_rule(v: View) -> Parts:
    _checked(v, 3, ("sigmoid", "tanh"))
    return _recurrent(v, 3, _gru)


@rule("LSTM")
def _lstm_rule(v: View) -> Parts:
    _checked(v, 4, ("sigmoid", "tanh", "tanh"))
    return _recurrent(v, 4, _lstm)


@rule("RNN")
def _rnn_rule(v: View) -> Parts:
    _checked(v, 1, ("tanh",))
    return _recurrent(v, 1, _rnn)
