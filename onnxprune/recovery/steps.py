"""The steps of recovery by name, as ``--recover`` takes them."""

from __future__ import annotations

from onnxprune.errors import UsageError

AUTO, NONE = "auto", "none"
#: What may be done for a mask plan: solve layer by layer; before that, divide the weights over
#: layers by a measured table; other orders of coupled channels (N:M); train block-wise.
MASK_STEPS = ("reconstruct", "allocate", "permute", "train")
#: What may be done for a channel plan, in this order: select units and widths by samples; solve the
#: layers that read them; put the moments of normalisations right; train block-wise.
CHANNEL_STEPS = ("select", "reconstruct", "statistics", "train")
_OF = {"mask": MASK_STEPS, "structure": CHANNEL_STEPS}


def parse_recover(text: str) -> tuple[str, ...] | None:
    """Return the steps that a text lists; None for ``auto``, nothing for ``none``.

    Args:
        text: ``auto``, ``none``, or names of steps with commas between.

    Raises:
        UsageError: no step of that name is known; the message lists those that are.
    """
    if text in (AUTO, NONE):
        return None if text == AUTO else ()
    names = tuple(part.strip() for part in text.split(","))
    known = tuple(dict.fromkeys((*MASK_STEPS, *CHANNEL_STEPS)))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"recover is {text!r}: there is no step {unknown[0]!r}; give auto, none, or some of "
            f"{', '.join(known)}, with commas between"
        )
    return names


def steps_for(text: str, kind: str) -> tuple[str, ...]:
    """Return the steps to take for a plan of ``kind``, ``mask`` or ``structure``.

    Raises:
        UsageError: a step is not known, or is none of that kind's.
    """
    names, possible = parse_recover(text), _OF[kind]
    if names is None:
        return possible
    for name in names:
        if name not in possible:
            whose = "masks" if kind == "mask" else "channels"
            raise UsageError(
                f"recover is {text!r}: {name!r} is no step for {whose}; those are "
                f"{', '.join(possible)}"
            )
    return names
