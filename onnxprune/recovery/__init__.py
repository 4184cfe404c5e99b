"""New values for what stays, and what had better stay, from statistics alone.

Everything here is linear algebra on one layer's (W, H, G); graphs and samples are elsewhere.

* :mod:`.problem` is the common form, :mod:`.auto` the one call for a layer,
* :mod:`.least_squares`, :mod:`.pcg`, :mod:`.damping` solve for values on a given mask,
* :mod:`.alps`, :mod:`.obs`, :mod:`.sparsegpt`, :mod:`.swaps` and the score files search masks
  (:data:`.search.SEARCHES` lists them), on the geometry of :mod:`.structure`,
* :mod:`.structured`, :mod:`.structured_swaps`, :mod:`.thinet`, :mod:`.lasso` choose coupled units,
* :mod:`.permutation` reorders channels for N:M and blocks,
* :mod:`.bias` and :mod:`.statistics` repair means and variances.
"""
