"""Scores for weights and units, one file a criterion.

A criterion turns a weight into a *saliency*, one number per weight (:meth:`Criterion.elementwise`),
or the coupled parameters of channel units into one score per unit (:meth:`Criterion.unit`).
Larger means more worth keeping.
"""

from onnxprune.criteria.base import CRITERIA, Criterion, Member, Role, parse_criterion

__all__ = ["CRITERIA", "Criterion", "Member", "Role", "parse_criterion"]
