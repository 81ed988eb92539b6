"""``torch.distributed.checkpoint`` over Forebay: its planners and layouts, our storage.

::

    import torch.distributed.checkpoint as dcp
    from forebay.dcp import StorageReader, StorageWriter

    writer = StorageWriter("s3://lake", run="gpt-small", local="/nvme")     # once, on all ranks
    reader = StorageReader("s3://lake", run="gpt-small", local="/nvme")
    if reader.newest() is not None:
        dcp.load(state, storage_reader=reader)                # or checkpoint_id=1000
    ...
    dcp.save(state, checkpoint_id=step + 1, storage_writer=writer)          # the steps taken
    ...
    writer.close()

The checkpoint's id is the number of steps taken. ``save`` returns on all ranks when the step is
committed, and ``async_save`` completes its future then: what a killed run left half done does not
exist. The planner decides who writes which part of what, so everything it can shard is stored and
read in any other layout: DDP, FSDP2, tensor parallel, meshes of several dimensions.

Nothing is pickled. Values that are no tensors are stored as JSON (what ``forebay.Checkpointer``
takes), and what cannot be is refused by its name on all ranks before anything is written. Each
tensor that is read is verified, in place: a load that fails leaves the state undefined.
``forebay.load_checkpoint`` gives the state as it was saved, with texts as keys; the reader here
reads what ``forebay.Checkpointer`` wrote, too.

``async_save`` copies the state before it returns. Give it one stager for all saves, and it reuses
the memory of the first: ``DefaultStager(StagingOptions(False, False, False, False))``, on a GPU
``DefaultStager()``, both of ``torch.distributed.checkpoint.staging``. Its process group must have a
CPU backend, and ``AsyncCheckpointerType.PROCESS`` is refused: the engine's threads do not follow
into another process.

Failures reach the caller as ``torch.distributed.checkpoint.api.CheckpointException``, which holds
for each rank the exception of ``forebay`` that it raised. A step that is not there is the one that the
library puts into words of its own, around ours; ask ``reader.newest()`` before.

All ranks of the job save together. One that cannot store its part tells the others, which raise its
reason; if one of them dies, they wait ten minutes for its part, and then say whose is missing.
"""

from ._dcp_reader import StorageReader
from ._dcp_writer import StorageWriter

__all__ = ["StorageReader", "StorageWriter"]
