"""fairseq's ``--user-dir``: the model, task, criterion and optimizer of Neuron Specialization.

fairseq imports this folder as a top-level module after putting its parent on ``sys.path``; that entry
would let our module names (``config``, ``training`` …) shadow others', so it is taken off again.
"""

import sys
from pathlib import Path

_parent = str(Path(__file__).resolve().parents[1])
if __name__ != "neuron_specialization.fairseq_plugin":
    while _parent in sys.path:
        sys.path.remove(_parent)

from neuron_specialization.fairseq_plugin import criterion, model, muon, optimizer, task  # noqa: E402, F401
from neuron_specialization.storage.safe_loading import allow_fairseq_globals  # noqa: E402

# fairseq resumes by a bare torch.load, which refuses its own checkpoints unless their Namespace is allowed
allow_fairseq_globals()
