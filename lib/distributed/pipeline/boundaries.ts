// What goes from stage to stage: shapes and dtypes, found before anything is computed. Each rank runs its stages dry, without memory and kernels, from
// what the stage before said, so stages that do not fit together are an error on every rank, and nobody waits for a tensor that never comes.
// Asked once for every kind of micro-batch.

import type { AutocastDType } from '../../amp/policy.js';
import { context, withContext } from '../../context.js';
import { empty, fromTypedArray, zeros } from '../../create.js';
import { dryRun } from '../../dry_run.js';
import type { DType } from '../../dtype.js';
import { DistributedError, ShapeError, ShardgradError } from '../../errors.js';
import { scope } from '../../memory.js';
import type { Module } from '../../nn/module.js';
import type { Shape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';
import type { MicroBatch } from './micro_batches.js';
import type { Schedule } from './schedule.js';
import type { Stage, Stages } from './stages.js';

export interface Form {
  readonly shape: Shape;
  readonly dtype: DType;
}
/** By stage: what it makes; nothing for the last one. */
export type Boundaries = readonly (readonly Form[])[];

/** The rank of a stage tells this to all. */
type Answer = { readonly forms: readonly Form[] } | { readonly error: string };
const ANSWER_BYTES = 4096;

const formsOf = (tensors: readonly Tensor[]): Form[] => tensors.map(({ shape, dtype }) => ({ shape, dtype }));

export class Negotiation {
  private readonly known = new Map<string, Boundaries>();

  constructor(
    private readonly model: Module,
    private readonly schedule: Schedule,
    private readonly stages: Stages,
    private readonly group: ProcessGroup,
  ) {}

  /** Of each micro-batch. All ranks along `pp` have the same ones. */
  async boundaries(batches: readonly MicroBatch[]): Promise<Boundaries[]> {
    const { autocast } = context(); // what surrounds the call is gone after an await
    const found: Boundaries[] = [];
    for (const batch of batches) {
      const forms = formsOf([...batch.inputs, ...(batch.targets ? [batch.targets] : [])]);
      const key = JSON.stringify([forms, autocast]);
      let boundaries = this.known.get(key);
      if (!boundaries) {
        boundaries = await this.ask(batch, autocast);
        this.known.set(key, boundaries);
      }
      found.push(boundaries);
    }
    return found;
  }

  private async ask(batch: MicroBatch, autocast: AutocastDType | null): Promise<Boundaries> {
    const { schedule, group } = this;
    const boundaries: (readonly Form[])[] = [];
    let forms = formsOf(batch.inputs);
    for (let index = 0; index < schedule.stages; index++) {
      const stage = this.stages.own.get(index);
      const own = stage ? this.runDry(stage, forms, batch.targets, autocast) : null;
      const answer = await this.told(own && ('error' in own ? { error: own.error.slice(0, 1000) } : own), schedule.rankOf(index));
      if ('error' in answer) {
        // a mistake of the model's own stays what it is where it was made
        if (own && 'cause' in own && !(own.cause instanceof ShardgradError)) throw own.cause;
        const text = `Pipeline: stage ${index} (rank ${schedule.rankOf(index)} along pp) cannot take ${show(forms)}: ${answer.error}`;
        group.abort(text);
        throw new ShapeError(text);
      }
      forms = [...answer.forms];
      boundaries.push(forms);
    }
    return boundaries;
  }

  private runDry(stage: Stage, forms: readonly Form[], targets: Tensor | null, autocast: AutocastDType | null): Answer & { readonly cause?: unknown } {
    const modules = stage.modules.flatMap((m) => m.modules());
    const training = modules.map((m) => m.training);
    try {
      // in evaluation, so that neither statistics nor the random numbers of dropout move on
      for (const m of modules) m.training = false;
      const run = (): Form[] => {
        const given = forms.map(({ shape, dtype }) => empty(shape, { dtype, device: this.group.device }));
        if (stage.index < this.schedule.stages - 1) return formsOf(stage.forward(given));
        if (stage.loss && targets) stage.loss(given, empty(targets.shape, { dtype: targets.dtype, device: this.group.device }), {});
        else stage.forward(given);
        return [];
      };
      const made = dryRun(() => withContext({ autocast, gradEnabled: false }, () => scope(() => this.model.during(run))));
      return { forms: made };
    } catch (error) {
      return { error: error instanceof Error ? error.message : String(error), cause: error };
    } finally {
      modules.forEach((m, i) => {
        m.training = training[i]!;
      });
    }
  }

  /** What the rank `src` has to say, on every rank. */
  private async told(answer: Answer | null, src: number): Promise<Answer> {
    const { device, size } = this.group;
    if (size === 1) return answer!;
    const bytes = Buffer.from(JSON.stringify(answer));
    const room = new Uint8Array(ANSWER_BYTES);
    if (bytes.length > ANSWER_BYTES) room.set(Buffer.from(JSON.stringify({ error: 'its tensors take more than 4 KiB to describe' })));
    else room.set(bytes);
    const box = answer ? fromTypedArray(room, [ANSWER_BYTES], { device }) : zeros([ANSWER_BYTES], { dtype: 'uint8', device });
    const sent = await this.group.broadcast(box.keep(), { src, label: 'of the shapes between stages' });
    const text = Buffer.from((await sent.toTypedArray()) as Uint8Array)
      .toString()
      .replace(/\0+$/, '');
    box.dispose();
    try {
      return JSON.parse(text) as Answer;
    } catch {
      throw new DistributedError(`Pipeline: rank ${src} along pp sent no description of its stage`);
    }
  }
}

function show(forms: readonly Form[]): string {
  return forms.map(({ shape, dtype }) => `${dtype} [${shape}]`).join(', ');
}
