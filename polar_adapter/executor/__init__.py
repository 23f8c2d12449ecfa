"""Run programs inside a transformers model: the only place that knows decoder internals.

The idea, in one page. A decoder's forward pass is a loop over its layer list. While a program is active,

* :mod:`~polar_adapter.executor.steps` makes that loop see K *steps* instead of D layers. A step is a shallow twin of
  its layer: same tensors, its own ``layer_idx``, hence its own cache slot;
* :mod:`~polar_adapter.executor.remap` makes the config describe a K-layer model, so that ``generate()``, caches and masks
  are built for the steps without knowing of programs;
* :mod:`~polar_adapter.executor.schedule` merges the programs of a batch's rows into one sequence of steps, each of which
  keeps its result only for the rows that asked for it;
* :mod:`~polar_adapter.executor.apply` switches all of it on and, whatever happens, off again.

The contract: a program equals, to the bit, the *unrolled* model whose k-th layer holds the weights of layer ``path[k]``.
:func:`materialize` builds that model for real.
"""

from .apply import active_programs, apply_program
from .materialize import materialize
from .schedule import Schedule, merge_programs
from .structure import Decoder, find_decoder, unwrap
from .trie import fan_out

__all__ = [
    "Decoder",
    "Schedule",
    "active_programs",
    "apply_program",
    "fan_out",
    "find_decoder",
    "materialize",
    "merge_programs",
    "unwrap",
]
