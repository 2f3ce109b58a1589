"""Batches made in a process of their own, for a GPU: Python there does not hold up the Python that launches kernels.

Threads of one process take turns at running Python. Beside a loader's threads, the thousands of small calls that a
step is made of come out late, and the GPU stands still between them. Images are written into pages that both processes
see and that the GPU copies from by itself; everything else goes through a socket, which also tells either process that
the other is gone.
"""

import contextlib
import mmap
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection

import numpy as np
import torch

from pipeline.errors import OutOfMemoryError, PeerLostError, TrainingError
from pipeline.loading.assembly import Batch, Pages
from pipeline.loading.batches import BATCHES_AHEAD
from pipeline.loading.device import MAX_UNDER_WAY

Make = Callable[..., Iterator[Batch]]
"""Gives the batches of one request, in pages of those that it was opened with."""

Open = Callable[[Pages], AbstractContextManager[Make]]
"""Picklable; called once, in the other process."""

NUM_SLOTS = BATCHES_AHEAD + 1 + 2 + MAX_UNDER_WAY
"""Batches that there are pages for: in the making, made and waiting, and being copied."""

_END_SECONDS = 5.0


class Apart:
    """The other process, and the batches that come from there. One thread's."""

    def __init__(self, open_maker: Open, *, batch_bytes: int, device: torch.device):
        """`batch_bytes` of images that a batch has at most; `device` is where they will be copied to."""
        told = pickle.dumps(open_maker)
        slot_bytes = -(-batch_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        descriptor = os.memfd_create("convoy-batches")
        os.ftruncate(descriptor, slot_bytes * NUM_SLOTS)
        self._memory = np.frombuffer(mmap.mmap(descriptor, slot_bytes * NUM_SLOTS), np.uint8)
        self._slot_bytes = slot_bytes
        mine, other = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, str(other.fileno()), str(descriptor), str(slot_bytes)],
            pass_fds=(other.fileno(), descriptor),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # who interrupts this process's group still gets the batches of the last step
        )
        other.close()
        os.close(descriptor)
        self._channel = Connection(mine.detach())
        self._is_pinned = device.type == "cuda"
        try:
            self._channel.send_bytes(told)
            if self._is_pinned:
                pinned = torch.cuda.cudart().cudaHostRegister(self._memory.ctypes.data, self._memory.size, 0)
                torch.cuda.check_error(pinned)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def batches(self, *request: object) -> Iterator[Batch]:
        """What the other process's `Make` gives for the request.

        Raises what was raised there, OutOfMemoryError when that process was killed, PeerLostError when another signal
        ended it, and TrainingError when it ended by itself.
        """
        self._tell(request)
        while (answer := self._receive()) is not None:
            if isinstance(answer, Exception):
                raise answer
            yield self._batch(*answer)

    def close(self) -> None:
        """Ends the other process, and what the GPU still copies from it."""
        self._channel.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._is_pinned:
            with contextlib.suppress(RuntimeError):  # the GPU's own, which was raised before
                torch.cuda.synchronize()
                torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.ctypes.data))

    def _receive(self) -> object:
        try:
            return pickle.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as exc:
            code = self._process.wait()
            if code == -signal.SIGKILL:
                raise OutOfMemoryError(
                    "The process that loads batches was killed, as systems do when memory runs out; free some, lower "
                    "loading.global_batch_size or model.input_px, and run the same command again."
                ) from exc
            if code < 0:
                raise PeerLostError(
                    f"The process that loads batches was ended by {signal.Signals(-code).name}; run the same command "
                    "again to go on. If it happens again, please report it."
                ) from exc
            raise TrainingError(
                f"The process that loads batches ended with {code}; what it wrote before says why. Please report it."
            ) from exc

    def _batch(self, slot: int, shape: tuple[int, ...], dtype: str, *others: object) -> Batch:
        images_BHWC = _view(self._memory, slot, self._slot_bytes, shape, dtype)
        weakref.finalize(images_BHWC, self._tell, slot).atexit = False
        return Batch(torch.from_numpy(images_BHWC).permute(0, 3, 1, 2), *others)

    def _tell(self, what: object) -> None:
        with contextlib.suppress(OSError):  # closed, or gone: who receives will see
            self._channel.send_bytes(pickle.dumps(what))


class Slots(Pages):
    """Pages of the memory that both processes see; to take one waits until the other process is done with one."""

    def __init__(self, memory: np.ndarray, slot_bytes: int):
        super().__init__()
        self._memory, self._slot_bytes = memory, slot_bytes
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(memory.size // slot_bytes):
            self.free.put(slot)

    def take(self, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
        return _view(self._memory, self.free.get(), self._slot_bytes, shape, dtype)

    def slot_of(self, address: int) -> int:
        return (address - self._memory.ctypes.data) // self._slot_bytes


def _view(memory: np.ndarray, slot: int, slot_bytes: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return memory[slot * slot_bytes :][:num_bytes].view(dtype).reshape(shape)


_CODE = "import sys; from pipeline.loading.apart import serve; serve(*map(int, sys.argv[1:]))"


def serve(channel_descriptor: int, memory_descriptor: int, slot_bytes: int) -> None:
    """The other process, until it is told no more."""
    for interruption in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interruption, signal.SIG_IGN)
    torch.set_num_threads(1)
    channel = Connection(channel_descriptor)
    slots = Slots(np.frombuffer(mmap.mmap(memory_descriptor, 0), np.uint8), slot_bytes)
    try:
        open_maker: Open = pickle.loads(channel.recv_bytes())
    except EOFError:
        return
    requests: queue.SimpleQueue[tuple] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, slots, requests), daemon=True).start()
    try:
        with open_maker(slots) as make:
            while True:
                for batch in make(*requests.get()):
                    images_BHWC = batch.images_BCHW.permute(0, 2, 3, 1)
                    slot = slots.slot_of(images_BHWC.data_ptr())
                    image = (slot, tuple(images_BHWC.shape), str(images_BHWC.numpy().dtype))
                    _send(channel, (*image, batch.labels_B, batch.mask_B, batch.keys_B, batch.work))
                _send(channel, None)
    except Exception as exc:
        exc.add_note(f"In the process that loads batches:\n{traceback.format_exc()}")
        _send(channel, exc)
        threading.Event().wait()  # until the other has read it, and closes


def _listen(channel: Connection, slots: Slots, requests: queue.SimpleQueue) -> None:
    """Slots that are free again, requests, and the end."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            told = pickle.loads(channel.recv_bytes())
            (slots.free if isinstance(told, int) else requests).put(told)
    os._exit(0)


def _send(channel: Connection, answer: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the other thread ends the process
        channel.send_bytes(pickle.dumps(answer))
