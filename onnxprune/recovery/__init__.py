"""New values for what stays, and what had better stay, from unlabelled samples.

The linear algebra of one layer's (W, H, G), which knows no graph:

* :mod:`.problem` is the common form, :mod:`.auto` the one call for a layer, :mod:`.quick` the one
  for several levels of it,
* :mod:`.least_squares`, :mod:`.pcg`, :mod:`.damping` solve for values on a given mask,
* :mod:`.alps`, :mod:`.obs`, :mod:`.sparsegpt`, :mod:`.swaps` and the score files search masks
  (:data:`.search.SEARCHES` lists them), on the geometry of :mod:`.structure`,
* :mod:`.structured`, :mod:`.structured_swaps`, :mod:`.thinet`, :mod:`.lasso` choose coupled units,
* :mod:`.permutation` reorders channels for N:M and blocks,
* :mod:`.bias` and :mod:`.statistics` repair means and variances.

A network with its samples:

* :mod:`.apply` holds it, :mod:`.apply_layer` solves a layer, :mod:`.solve_layers` all of them,
* :mod:`.effort` says what its size allows,
* :mod:`.apply_levels` and :mod:`.channel_levels` measure what layers and groups lose,
* :mod:`.train_masks` and :mod:`.train_blocks` train what was solved,
* :mod:`.recover_masks` and :mod:`.apply_structure` try all this in turn and keep what helps.
"""
