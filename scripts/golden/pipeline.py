"""Goldens of pipeline schedules: the plans that PyTorch makes, in the text that it writes to files."""
import csv
import io
from types import SimpleNamespace

from torch import nn
from torch.distributed.pipelining import schedules

from golden.family import Family


def stage(index, ranks, stages):
    """What a schedule asks of the stages on rank 0. It plans for all ranks, and no process group is needed for that."""
    return SimpleNamespace(group_rank=0, group_size=ranks, stage_index=index, num_stages=stages, is_first=index == 0,
                           is_last=index == stages - 1, submod=nn.Identity(), has_backward=True)


def text(order):
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for rank in sorted(order):
        writer.writerow(order[rank])
    return rows.getvalue()


def from_zero(order):
    """PyTorch's listing of 1F1B begins the last rank's forwards at 1, where it runs them from 0."""
    last = max(order)
    order[last] = [a and (a._replace(microbatch_index=a.microbatch_index - 1) if a.computation_type == schedules.FORWARD else a) for a in order[last]]
    return order


def pipeline_schedules():
    f = Family("pipeline_schedules")
    for name, schedule in [("gpipe", schedules.ScheduleGPipe), ("1f1b", schedules.Schedule1F1B)]:
        for ranks, micro_batches in [(1, 1), (2, 3), (4, 4), (4, 8), (5, 11)]:
            order = schedule(stage(0, ranks, ranks), micro_batches)._get_pipeline_order()
            f.case(name, ranks=ranks, microBatches=micro_batches, stagesPerRank=1, text=text(from_zero(order) if name == "1f1b" else order))
    several = [
        ("interleaved", schedules.ScheduleInterleaved1F1B, 2, [(2, 2), (2, 6), (3, 3), (4, 8), (4, 10)]),
        ("interleaved", schedules.ScheduleInterleaved1F1B, 3, [(2, 4), (3, 6)]),
        ("zb-h1", schedules.ScheduleInterleavedZeroBubble, 1, [(1, 2), (2, 4), (3, 3), (4, 8), (5, 15)]),
        ("zbv", schedules.ScheduleZBVZeroBubble, 2, [(1, 2), (2, 2), (2, 5), (3, 4), (4, 8), (4, 12)]),
    ]
    for name, schedule, per_rank, sizes in several:
        for ranks, micro_batches in sizes:
            stages = ranks * per_rank
            indices = [0, stages - 1] if name == "zbv" else range(0, stages, ranks)
            plan = schedule([stage(i, ranks, stages) for i in indices], micro_batches)
            fields = dict(text=text(plan.pipeline_order))
            if micro_batches == 8:  # with UNSHARD, SEND_F and all the rest
                fields["lowered"] = text(plan.pipeline_order_with_comms)
            f.case(name, ranks=ranks, microBatches=micro_batches, stagesPerRank=per_rank, **fields)
    return f


FAMILIES = [pipeline_schedules]
