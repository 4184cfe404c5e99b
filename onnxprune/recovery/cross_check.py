"""Few samples: is recovery better than zeros alone on samples that it did not see?

Where samples are few, so are those held out, and what is better on one or five of them need not be
on others. There the whole recovery is first run several times, each time without a part of the
samples, and compared with zeros alone on that part: every sample is judged once, by weights that
neither a solver nor a decision made with it. Only where these gain is recovery run on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import CLOSE_VALUES, Judge
from onnxprune.calibration.samples import rows_of
from onnxprune.calibration.stages import Stream
from onnxprune.recovery.apply import FEW, Feed, Reconstruction, Recovered
from onnxprune.recovery.journal import Journal
from onnxprune.rules.analysis import Analyzer

Array = npt.NDArray[Any]
#: Loss and error of every sample.
Rows = list[tuple[float, float]]
#: Parts that samples are left out in.
PARTS = 4
#: Share of the passes that training takes there, so that all parts take as many as are taken after.
SHORT = 1 / PARTS
#: Chance that as many samples gain by luck, at most; of four samples or fewer it is more.
LUCK = 0.05


@dataclass(frozen=True)
class CrossCheck:
    """What came of it.

    Attributes:
        parts: runs, each without a part of the samples; none where that is not possible.
        zeros: mean loss a sample of zeros alone.
        recovered: mean loss of a sample where recovery had not seen it.
        kept: whether recovery is better.
    """

    parts: int
    zeros: float | None
    recovered: float | None
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def cross_check(
    analyzer: Analyzer,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    feeds: Sequence[Feed],
    recover: Callable[[Sequence[Feed], Journal], Recovered],
    journal: Journal | None = None,
) -> CrossCheck | None:
    """Return whether recovery is better than zeros alone, or None where samples are not few.

    Args:
        analyzer: of the dense model, which stays as it is.
        masks: by tensor name, what is kept before any recovery.
        feeds: calibration samples.
        recover: recovery from given samples, which leaves the model as it is.
        journal: where answers are kept and taken from.

    Raises:
        DataError: onnxruntime does not run the model on the samples.
    """
    count = sum(map(rows_of, feeds))
    if count >= FEW:
        return None
    parts = min(PARTS, len(feeds))
    if parts < 2 or 0.5**count > LUCK:
        return CrossCheck(0, None, None, False)
    work = Reconstruction(analyzer, feeds, journal=journal)
    dense = Stream(work.stages, feeds).finish()
    spread = Judge(dense, tokens=work.tokens).spread

    def judge(want: list[Array], have: list[Array]) -> tuple[float, float]:
        one = Judge([want], tokens=work.tokens)
        one.spread = spread  # one sample does not say how far values differ
        found = one.judge([have])
        return found.loss, found.error

    def judged(found: Recovered, chosen: Sequence[int]) -> Rows:
        part = [feeds[i] for i in chosen]
        own = Reconstruction(found.analyzer or analyzer, part)
        stream = Stream(own.stages, part)
        own.dress(stream, found.weights, found.biases)
        rows: Rows = []
        for index, have in zip(chosen, stream.finish(), strict=True):
            pairs = zip(singly(dense[index]), singly(have), strict=True)
            rows += [judge(*pair) for pair in pairs]
        return rows

    plain, before, after = Recovered(weights=work.masked(masks)), [], []
    for part in range(parts):
        rest = [feed for i, feed in enumerate(feeds) if i % parts != part]
        chosen = range(part, len(feeds), parts)
        before += judged(plain, chosen)
        after += judged(recover(rest, work.journal.of(f"without {part} of {parts}")), chosen)
    zeros, recovered = (float(np.mean([loss for loss, _ in x])) for x in (before, after))
    return CrossCheck(parts, zeros, recovered, better(before, after))


def singly(outputs: Sequence[Array]) -> list[list[Array]]:
    """Return the outputs of every sample of a feed; those of the feed where they do not say."""
    sizes = {o.shape[0] if o.ndim else 0 for o in outputs}
    if len(sizes) != 1 or not sizes - {0}:
        return [list(outputs)]
    return [[o[i : i + 1] for o in outputs] for i in range(sizes.pop())]


def better(before: Rows, after: Rows) -> bool:
    """Return whether (loss, error) of samples fell, in the mean and of more than luck explains.

    The mean alone may be that of one sample; how many gain, which the sign test looks at, says
    nothing about how much the others lose.
    """
    least, most = np.asarray(after, np.float64), np.asarray(before, np.float64)
    (loss, error), (limit, wide) = least.mean(axis=0), most.mean(axis=0)
    gained, count = int((least[:, 0] < most[:, 0]).sum()), len(least)
    luck = sum(comb(count, n) for n in range(gained, count + 1)) / 2**count
    return bool(loss < limit and error <= max(wide, CLOSE_VALUES) and luck <= LUCK)
