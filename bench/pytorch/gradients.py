"""The gloo side of bench/gradients.ts: for each line on standard input, the milliseconds that all buckets took."""
import sys
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
buckets = [torch.zeros(int(n)) for n in sys.argv[1].split(",")]
for _ in sys.stdin:
    dist.barrier()
    start = time.perf_counter()
    for work in [dist.all_reduce(b, async_op=True) for b in buckets]:
        work.wait()
    print((time.perf_counter() - start) * 1000, flush=True)
dist.destroy_process_group()
