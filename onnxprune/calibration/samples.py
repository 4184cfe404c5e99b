"""Calibration samples as feeds of a size that suits statistics."""

from __future__ import annotations

from typing import Any

from onnxprune.calibration.feeds import Feed, open_feeds

#: Samples used when nothing else is asked for.
SAMPLES = 1024
#: Samples a feed where the model leaves the batch open, and feeds wanted, so that some can be held
#: out.
BATCH = 32
FEEDS = 12


def calibration_feeds(source: Any, inputs: Any, samples: int | None = None) -> list[Feed]:
    """Return feeds for calibration; batches shrink where few samples would make few feeds.

    Args:
        source: see :func:`~onnxprune.calibration.feeds.open_feeds`.
        inputs: the model, or its inputs.
        samples: at most so many; 1024 when None.

    Raises:
        DataError: nothing usable is there.
    """
    opened = open_feeds(source, inputs, samples or SAMPLES, batch=BATCH)
    feeds = list(opened)
    if len(feeds) >= FEEDS:
        return feeds
    batch = BATCH
    while batch > 1 and len(feeds) < FEEDS:
        batch //= 2
        smaller = list(opened.batched(batch))
        if len(smaller) == len(feeds) and batch > 1:
            continue
        feeds = smaller
    return feeds
