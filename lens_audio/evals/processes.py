"""The processes of a run: usually one; under `accelerate launch`, one a GPU, or on CPUs over gloo."""

import os
from datetime import timedelta
from typing import Any

import torch

PATIENCE = timedelta(minutes=30)  # for a process that answers no more


class Processes:
    """This process among those of the run; inside `with`, none ends before all are done.

    Args:
        device: what the user asked for; None is the GPU of this process if there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        self.rank, self.count, self.device = 0, 1, device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            on_cpu = device == "cpu" or not torch.cuda.is_available()
            state = PartialState(cpu=on_cpu, timeout=PATIENCE)
            self.rank, self.count = state.process_index, state.num_processes
            self.device = "cpu" if on_cpu else str(state.device)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each process gave, in every process. All must call it as often.

        Raises:
            RuntimeError: where another process has ended.
        """
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def together(self, value: Any, error: BaseException | None = None) -> list[Any]:
        """`gather`, but an error of one process is an error of all.

        Raises:
            The process's own error, and in the other processes a RuntimeError that tells it.
        """
        told = None if error is None else f"{type(error).__name__}: {error}"
        gathered = self.gather((value, told))
        if error is not None:
            raise error
        for rank, (_, problem) in enumerate(gathered):
            if problem is not None:
                raise RuntimeError(f"process {rank} ended with {problem}")
        return [value for value, _ in gathered]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        """Wait until all are done, unless this one failed, and leave the others in order."""
        try:
            if error is None:
                self.gather(None)
        finally:
            if self.count > 1:
                torch.distributed.destroy_process_group()
