"""Store the weights in a sparse form, or make them dense again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxprune.errors import UsageError
from onnxprune.formats import format_choices
from onnxprune.formats.choose import parse_block
from onnxprune.formats.pack import convert_model
from onnxprune.passes.base import PASSES, Context, Pass, PassResult


@PASSES.member("emit")
@dataclass(frozen=True)
class Emit(Pass):
    """Replace weights of Conv, Gemm and MatMul by packed ones (operators of ``ai.onnxprune``).

    Main graph, subgraphs and functions are handled. ``coo`` needs no special operator: the weight
    becomes the standard's ``sparse_initializer``. ``dense`` undoes every form bit for bit. The
    result depends on the numbers and these options only, not on the form the weights had.

    Attributes:
        format: ``auto`` (the smallest per tensor), ``dense`` or a name of the format registry.
        min_saving: leave a weight dense unless this fraction of its bytes is saved.
        block: option of the format: ``4x1`` (bsr), ``2:4`` (nm), processing elements (eie),
            ``nd`` (coo, N-d indices); empty for its default.
        others: also pack weights of other operators, behind ``SparseDecode`` nodes.
        merge_zeros: store -0.0 as 0.0 in packed weights.
    """

    name: ClassVar[str] = "emit"

    format: str = "auto"
    min_saving: float = 0.0
    block: str = ""
    others: bool = False
    merge_zeros: bool = False

    def __post_init__(self) -> None:
        """Check the format before any work is done for it.

        Raises:
            UsageError: unknown format, or a block that does not fit it.
        """
        if self.format not in format_choices():
            raise UsageError(
                f"unknown format {self.format!r}; there are {', '.join(format_choices())}"
            )
        parse_block(self.format, self.block)

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the model in place; ``stats`` is :meth:`.formats.pack.PackStats.as_dict`.

        Raises:
            UsageError: an option out of range.
            LoadError: the model holds a damaged packed weight.
        """
        stats = convert_model(
            model,
            self.format,
            min_saving=self.min_saving,
            block=parse_block(self.format, self.block),
            others=self.others,
            merge_zeros=self.merge_zeros,
        )
        return PassResult(model, stats.modified, stats.as_dict())
