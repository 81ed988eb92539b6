"""Three ranks save tensors that they hold in parts, as torch.distributed.checkpoint does."""

import sys

import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
rows = torch.arange(70, dtype=torch.float64).reshape(10, 7)
columns = torch.arange(70, dtype=torch.int32).reshape(10, 7)
state = {
    "rows": distribute_tensor(rows, mesh, [Shard(0)]),
    "columns": distribute_tensor(columns, mesh, [Shard(1)]),
    "step": 5,
}
checkpoint.save(state, checkpoint_id=sys.argv[1])
# Nobody closes its connections while another still waits for the last word on the save.
distributed.barrier()
distributed.destroy_process_group()
