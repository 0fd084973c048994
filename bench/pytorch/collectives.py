# The gloo side of bench/collectives.ts: medians in microseconds of one rank's all-reduce, by size.
import json, statistics, sys, time
import torch, torch.distributed as dist

dtype = getattr(torch, sys.argv[1])
sizes = [int(s) for s in sys.argv[2].split(",")]
repeats = [int(s) for s in sys.argv[3].split(",")]
torch.set_num_threads(1)
dist.init_process_group("gloo")
medians = []
for size, count in zip(sizes, repeats):
    x = torch.zeros(size // dtype.itemsize, dtype=dtype)
    times = []
    for i in range(count + 3):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(x)
        if i >= 3:
            times.append((time.perf_counter() - start) * 1e6)
    medians.append(statistics.median(times))
if dist.get_rank() == 0:
    print(json.dumps(medians), flush=True)
dist.destroy_process_group()
