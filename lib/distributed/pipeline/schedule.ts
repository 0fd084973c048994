// What every rank of a pipeline does, in its order. Schedules come from generators or from text: a line a rank, a cell an action, as
// PyTorch's pipelining writes and reads them. SEND and RECV cells that follow one another are posted together, as one step; an empty
// cell between them parts two steps. Elsewhere empty cells mean nothing.
import { readFile, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { ValueError } from '../../errors.js';
import { type Action, formatAction, isCommunication, isCompute, parseAction } from './action.js';

/** One action, or several SENDs and RECVs that are posted together. */
export type Step = readonly Action[];

/** A plan for all ranks. It is immutable, and the same on every rank; `validateSchedule` says whether it can run. */
export class Schedule {
  /** For errors and drawings. */
  readonly name: string;
  /** Ranks of the pipeline. */
  readonly ranks: number;
  /** Stages of all ranks. */
  readonly stages: number;
  /** Into how many a batch is cut. */
  readonly microBatches: number;
  /** By rank: what it does, in order. */
  readonly steps: readonly (readonly Step[])[];
  /** By rank: the same without the bounds of steps. */
  readonly actions: readonly (readonly Action[])[];
  /** Whether it has SENDs and RECVs; without, `lowerSchedule` puts them in. */
  readonly communicates: boolean;
  /** False: forwards alone, as `forwardsOf` makes it. */
  readonly trains: boolean;
  private readonly owners: readonly number[];

  /**
   * @param name for errors and drawings
   * @param plan by rank: its actions; null is an empty cell
   * @param options.trains false for a plan without backwards; true
   * @throws ValueError unless each stage computes on one rank and each rank has a stage
   */
  constructor(name: string, plan: readonly (readonly (Action | null)[])[], options: { trains?: boolean } = {}) {
    this.name = name;
    this.trains = options.trains ?? true;
    this.ranks = plan.length;
    this.steps = plan.map(stepsOf);
    this.actions = this.steps.map((steps) => Object.freeze(steps.flat()));
    this.communicates = this.actions.some((actions) => actions.some(isCommunication));
    const owners = new Map<number, number>();
    let microBatches = 0;
    for (const [rank, actions] of this.actions.entries()) {
      const computing = actions.filter(isCompute);
      if (computing.length === 0) throw new ValueError(`schedule ${name}: rank ${rank} has nothing to compute`);
      for (const action of computing) {
        const owner = owners.get(action.stage) ?? rank;
        if (owner !== rank)
          throw new ValueError(
            `schedule ${name}: stage ${action.stage} is on rank ${owner} and, with ${formatAction(action)}, on rank ${rank}; a stage has one rank`,
          );
        owners.set(action.stage, rank);
        microBatches = Math.max(microBatches, action.microBatch + 1);
      }
    }
    if (this.ranks === 0) throw new ValueError(`schedule ${name} is empty; it has a line for each rank`);
    this.microBatches = microBatches;
    this.stages = Math.max(...owners.keys()) + 1;
    if (owners.size !== this.stages) {
      const missing = [...owners.keys(), -1].map((stage) => stage + 1).filter((stage) => !owners.has(stage));
      throw new ValueError(`schedule ${name}: nothing computes stage ${Math.min(...missing)}, though there is a stage ${this.stages - 1}`);
    }
    this.owners = Array.from({ length: this.stages }, (_, stage) => owners.get(stage)!);
    Object.freeze(this);
  }

  /** The rank that a stage is on. */
  rankOf(stage: number): number {
    const rank = this.owners[stage];
    if (rank === undefined) throw new ValueError(`schedule ${this.name}: there is no stage ${stage}; it has ${this.stages}`);
    return rank;
  }

  /** The stages on a rank, in ascending order. */
  stagesOf(rank: number): number[] {
    return [...this.owners.keys()].filter((stage) => this.owners[stage] === rank);
  }

  /** Whether a tensor goes from one rank to another between a stage and the next. */
  crosses(stage: number): boolean {
    return this.owners[stage] !== this.owners[stage + 1];
  }
}

/** The forwards of a plan, in its order: what an evaluation runs. It has no communication; `lowerSchedule` puts it in. */
export function forwardsOf(schedule: Schedule): Schedule {
  const forwards = schedule.actions.map((actions) => actions.filter(({ kind }) => kind === 'F'));
  return new Schedule(schedule.name, forwards, { trains: false });
}

function stepsOf(cells: readonly (Action | null)[]): readonly Step[] {
  const steps: Action[][] = [];
  let open = false;
  for (const action of cells) {
    if (action && open && isCommunication(action)) steps.at(-1)!.push(action);
    else if (action) steps.push([action]);
    open = action !== null && isCommunication(action);
  }
  return Object.freeze(steps.map((step) => Object.freeze(step)));
}

/**
 * Reads a plan: a line for each rank, from 0; a line's cells are actions, parted by commas.
 * @param name for errors
 * @throws ValueError that names the line and the cell, both from 1
 */
export function parseSchedule(text: string, name = 'from text'): Schedule {
  const lines = text.trimEnd().split(/\r?\n/);
  const plan = lines.map((line, i) =>
    line.split(',').map((cell, j) => {
      if (cell.trim() === '') return null;
      try {
        return parseAction(cell);
      } catch (error) {
        if (!(error instanceof ValueError)) throw error;
        throw new ValueError(`schedule ${name}, line ${i + 1}, cell ${j + 1}: ${error.message}`);
      }
    }),
  );
  return new Schedule(name, text.trim() === '' ? [] : plan);
}

/**
 * Writes what `parseSchedule` reads.
 * @param options.gaps the empty cells that part steps of SENDs and RECVs; true. PyTorch reads plans that have SENDs and RECVs only without.
 */
export function formatSchedule(schedule: Schedule, options: { gaps?: boolean } = {}): string {
  const { gaps = true } = options;
  const line = (steps: readonly Step[]): string => {
    const cells: string[] = [];
    for (const [i, step] of steps.entries()) {
      if (gaps && isCommunication(step[0]!) && i > 0 && isCommunication(steps[i - 1]![0]!)) cells.push('');
      cells.push(...step.map(formatAction));
    }
    return cells.join(',');
  };
  return `${schedule.steps.map(line).join('\n')}\n`;
}

/** Reads a plan from a file, whose name it takes. Errors are those of `parseSchedule`. */
export async function readSchedule(path: string): Promise<Schedule> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new ValueError(`schedule ${path}: the file cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  return parseSchedule(text, basename(path));
}

/** Writes a plan to a file, as `formatSchedule` does. */
export async function writeSchedule(path: string, schedule: Schedule, options: { gaps?: boolean } = {}): Promise<void> {
  await writeFile(path, formatSchedule(schedule, options));
}
