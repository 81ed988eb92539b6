"""Storage for AI training: batches from the lake, through this node, to the GPU.

::

    import forebay

    feed = forebay.feed("/data/lake", "my-text@3", batch_size=32)
    for batch in feed:
        tokens = batch["tokens"].long()      # uint16[32, row], torch where it is installed
        ...

Threads in Rust do the work: no worker processes, no pickling, and the interpreter is released while
a batch is waited for. The state is a few numbers, and resuming costs the same anywhere; another
world size goes on with the same samples.

:class:`Checkpointer` saves weights, optimizer, random state and the feed's position together, with
hardly a pause, and gives them back to any number of ranks.

``forebay.torch`` has what PyTorch, Lightning and Hugging Face take as a data loader; ``forebay.dcp``,
``forebay.lightning`` and ``forebay.transformers`` have what they take to keep checkpoints. These and
``forebay.jax`` need their packages; this one needs numpy alone.

- **Memory.** Batches lie in the engine's own memory, without a copy, until their last array dies.
  ``buffer_bytes`` bounds those that are assembled ahead; those you keep are yours.
- **Ctrl-C** works in every call.
- **Forks.** Fork before you open a feed, or not at all: in a forked child a feed raises
  :class:`RefusedError`. Opening one there works.
- **Free-threaded Python.** The extension is built for CPython's limited interface, which those
  builds do not load. Nothing in it needs the global lock: built without ``abi3``, it says so.
"""

from ._batches import Batch, Ragged, Transform, sample_ids
from ._checkpointer import Checkpointer, Saved, load_checkpoint
from ._convert import Imported, export_checkpoint, import_checkpoint
from ._errors import (
    ConflictError,
    CorruptError,
    Error,
    FullError,
    InternalError,
    InvalidError,
    NewerFormatError,
    NotFoundError,
    RefusedError,
    StoppedError,
    UnavailableError,
)
from ._feed import Feed, Stats, feed
from ._fork import Forked, fork_run
from ._forebay import VERSION as __version__
from ._index import Indexed, index
from ._meter import Meter
from ._prepare import Prepared, prepare
from ._state import State
from ._trace import Origin, Sample, trace

__all__ = [
    "Batch",
    "Checkpointer",
    "ConflictError",
    "CorruptError",
    "Error",
    "Feed",
    "Forked",
    "FullError",
    "Imported",
    "Indexed",
    "InternalError",
    "InvalidError",
    "Meter",
    "NewerFormatError",
    "NotFoundError",
    "Origin",
    "Prepared",
    "Ragged",
    "RefusedError",
    "Sample",
    "Saved",
    "State",
    "Stats",
    "StoppedError",
    "Transform",
    "UnavailableError",
    "__version__",
    "export_checkpoint",
    "feed",
    "fork_run",
    "import_checkpoint",
    "index",
    "load_checkpoint",
    "prepare",
    "sample_ids",
    "trace",
]
