"""CUDA graphs: launches that the host repeats, made by the device as one."""

import math

import cupy


class Repeated:
    """Launches that are made again and again: by `launch_one(0)` to `launch_one(period - 1)` in turns.

    A graph of a period takes their place where so many launches are `worth` it. Kernels that are launched for the first
    time may wait for the device, so that they cannot be captured: the first launches are made one by one.
    """

    def __init__(self, worth, period):
        self.graph, self._worth, self._period, self._is_known = None, worth, period, False

    def launch(self, launch_one, n, expected=0):
        """Call n times, from `launch_one(0)` on, for what it launches: what the last call returned.

        Where there is a graph, the next launches write to it again. `expected` are those that come after these. The
        function is the same each time; it is not kept, as it may be a method of who keeps this.
        """
        if self.graph is None and self._is_known and n + expected >= self._worth:
            self.graph = captured(lambda: [launch_one(i) for i in range(self._period)][-1])
            self._worth = math.inf  # one attempt is enough
        n_done = n - n % self._period if self.graph else 0
        for _ in range(n_done // self._period):
            result = self.graph.launch()
        for i in range(n_done, n):
            result = launch_one(i % self._period)
        self._is_known = True
        return result


class Graph:
    """Launches that were captured, what their function returned, and the memory that they write to."""

    def __init__(self, allocator):
        self.graph = self.result = None
        self.pool, self._device = cupy.cuda.MemoryPool(allocator), cupy.cuda.Device()

    def launch(self):
        """Launch them in the current stream: the result, which they write to, for as long as there is the graph."""
        self.graph.launch()
        return self.result

    def __del__(self):
        self.graph = self.result = None
        with self._device:
            self.pool.free_all_blocks()  # a pool that is gone would keep them


def captured(function):
    """`Graph` of what a function launches, or None where the device, or its memory, does not allow for one.

    The function allocates from a pool of the graph's own, so that nobody else is given what it writes to; the pool has
    its memory from the allocator and the stream that are current.
    """
    current, allocator = cupy.cuda.get_current_stream(), cupy.cuda.get_allocator()

    def from_current(n_bytes):
        with current:
            found = allocator(n_bytes)
        # A pool knows memory, and not that what it was given may begin amid it
        own = cupy.cuda.UnownedMemory(found.ptr, n_bytes, found, cupy.cuda.Device().id)
        return cupy.cuda.MemoryPointer(own, 0)

    found, stream = Graph(from_current), cupy.cuda.Stream(non_blocking=True)
    try:
        with cupy.cuda.using_allocator(found.pool.malloc), stream:
            stream.begin_capture()
            try:
                found.result = function()
            finally:
                found.graph = stream.end_capture()
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError, MemoryError):
        return None
    return found
