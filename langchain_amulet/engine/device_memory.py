"""Free memory of a device, and recognition of out-of-memory errors."""

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")  # version 2


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes. On CPUs, the limit of the container counts too."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min(int(psutil.virtual_memory().available), _free_in_container())


def _free_in_container() -> int:
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # not in a container, or one without a limit ("max")
        return 2**62


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device had too little memory. Only CUDA has an error class of its own for this."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in message or "out of memory" in message)
