// The loss of a batch from those of its micro-batches, and what else is asked of them: made on the rank with the last stage, summed over the copies
// of the model, and brought to every rank by one all-reduce.
import { noGrad } from '../../autograd/modes.js';
import { zeros } from '../../create.js';
import { ShapeError, ValueError } from '../../errors.js';
import type { LossNormalizer } from '../../nn/layered.js';
import { clone, to } from '../../ops/copy.js';
import { stack } from '../../ops/pieces.js';
import { add, mul } from '../../ops/pointwise.js';
import { reshape, select } from '../../ops/view.js';
import { Tensor } from '../../tensor.js';
import { countValid } from '../count_valid.js';
import type { DeviceMesh, MeshAxis } from '../device_mesh.js';
import type { ProcessGroup } from '../process_group.js';
import type { MicroBatch } from './micro_batches.js';
import type { PipelineResult } from './pipeline.js';
import type { Stage } from './stages.js';

/** A scalar of a micro-batch; its mean over rows, if it is one. */
export type MetricFunction = (output: Tensor, targets: Tensor) => Tensor;

export interface TallyOptions {
  readonly loss?: (output: Tensor, targets: Tensor, options: LossNormalizer) => Tensor;
  readonly metrics?: Readonly<Record<string, MetricFunction>>;
  readonly ignoreIndex?: number;
}

export class Tally {
  private normalizer: Tensor | undefined;
  /** The loss, then the metrics. */
  private sums: Tensor[] = [];

  /** `counted`: losses are divided by the number of valid targets; otherwise they count by rows. */
  constructor(
    private readonly mesh: DeviceMesh,
    private readonly data: ProcessGroup | null,
    private readonly options: TallyOptions,
    private readonly counted: boolean,
  ) {}

  private get names(): string[] {
    return Object.keys(this.options.metrics ?? {});
  }

  begin(batches: readonly MicroBatch[], hasLast: boolean): void {
    for (const s of this.sums.splice(0)) s.dispose(); // of a step that has thrown
    this.normalizer = undefined;
    if (!hasLast || !this.counted) return;
    const targets = batches.map(({ targets }) => targets);
    if (targets.some((t) => t === null)) throw new ValueError('Pipeline: the loss is divided by the number of valid targets: pass targets');
    const { ignoreIndex = -100 } = this.options;
    const group = this.data ?? this.mesh.submesh('pp').group();
    this.normalizer = countValid(targets as Tensor[], group, { ignoreIndex }).wait();
  }

  /** The loss of a micro-batch as a part of that of the batch. */
  loss(stage: Stage, inputs: readonly Tensor[], { targets, share }: MicroBatch): Tensor {
    const { loss, metrics = {} } = this.options;
    const options: LossNormalizer = this.normalizer ? { normalizer: this.normalizer } : {};
    let values: readonly Tensor[] = [];
    const look = (output: Tensor): void => {
      values = noGrad(() => Object.values(metrics).map((f) => f(output.detach(), targets!)));
    };
    if (!loss && stage.loss) {
      const made = stage.loss(inputs, needed(targets), options, this.names.length > 0 ? look : undefined);
      return this.add(made, share, values);
    }
    const output = stage.forward(inputs)[0]!;
    const made = loss ? loss(output, targets!, options) : output;
    look(output);
    return this.add(made, share, values);
  }

  private add(made: Tensor, share: number, values: readonly Tensor[]): Tensor {
    if (!(made instanceof Tensor) || made.numel !== 1) {
      throw new ShapeError(
        `Pipeline: the loss of a micro-batch must be one number, got ${made instanceof Tensor ? `[${made.shape}]` : typeof made}; pass loss`,
      );
    }
    const loss = this.counted ? made : mul(made, share);
    noGrad(() => {
      const all = [loss.detach(), ...values.map((v) => mul(v, share))].map((v) => to(reshape(v, []), 'float64'));
      const sums = all.map((v, i) => (this.sums[i] ? add(this.sums[i]!, v) : clone(v)).keep());
      for (const s of this.sums) s.dispose();
      this.sums = sums;
    });
    return loss;
  }

  /** On every rank. */
  end(): PipelineResult {
    return noGrad(() => {
      const axes = (['pp', 'dpReplicate', 'dpShard'] as const satisfies readonly MeshAxis[]).filter((axis) => this.mesh.axes.includes(axis));
      const group = this.mesh.group(...axes);
      const count = 1 + this.names.length;
      const all = this.sums.length > 0 ? stack(this.sums) : zeros([count], { dtype: 'float64', device: this.mesh.device });
      for (const s of this.sums.splice(0)) s.dispose();
      group.allReduce(all, { label: 'of the loss' }).wait();
      const copies = this.data?.size ?? 1;
      const value = (i: number): Tensor => mul(select(all, 0, i), i === 0 && this.counted ? 1 : 1 / copies);
      return { loss: value(0), metrics: Object.fromEntries(this.names.map((name, i) => [name, value(i + 1)])) };
    });
  }
}

function needed(targets: Tensor | null): Tensor {
  if (!targets) throw new ValueError("Pipeline: the model's last layer makes the loss: pass targets");
  return targets;
}
