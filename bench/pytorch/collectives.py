"""One rank of gloo in bench/collectives.ts: a line names an operation and its sizes, the answer is microseconds, the median of many."""
import json
import statistics
import sys
import time
import warnings

import torch
import torch.distributed as dist

warnings.simplefilter("ignore", FutureWarning)  # of the names that have new ones


def prepare(op, size, world):
    """What starts one call and gives what waits for it."""
    x = torch.zeros(size // 4 // (world if op == "allGather" else 1))
    if op == "allReduce":
        return lambda: dist.all_reduce(x, async_op=True)
    if op == "broadcast":
        return lambda: dist.broadcast(x, 0, async_op=True)
    if op == "allGather":
        out = torch.zeros(size // 4)
        return lambda: dist.all_gather_into_tensor(out, x, async_op=True)
    out = torch.zeros(size // 4 // world)
    return lambda: dist.reduce_scatter_tensor(out, x, async_op=True)


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for line in sys.stdin:
        question = json.loads(line)
        calls = [prepare(question["op"], size, dist.get_world_size()) for size in question["sizes"]]
        times = []
        for i in range(question["repeats"] + 3):
            dist.barrier()
            start = time.perf_counter()
            for work in [call() for call in calls]:
                work.wait()
            if i >= 3:
                times.append((time.perf_counter() - start) * 1e6)
        print(json.dumps({"us": statistics.median(times)}), flush=True)
    dist.destroy_process_group()


main()
