// What must have happened before an action, and where in its rank's plan each action is.
import { ValueError } from '../../errors.js';
import { type Action, type CommunicationAction, type ComputeAction, formatAction } from './action.js';
import type { Schedule } from './schedule.js';

/** The compute action that an action takes its input from; null for one that takes data. B stands for I too. */
export function inputOf({ stages }: Schedule, { stage, kind, microBatch }: ComputeAction | CommunicationAction): ComputeAction | null {
  switch (kind) {
    case 'F':
      return stage === 0 ? null : { stage: stage - 1, kind: 'F', microBatch };
    case 'B':
    case 'I':
      return stage === stages - 1 ? { stage, kind: 'F', microBatch } : { stage: stage + 1, kind: 'B', microBatch };
    case 'SEND_F':
      return { stage, kind: 'F', microBatch };
    case 'RECV_F':
      return { stage: stage - 1, kind: 'F', microBatch };
    case 'RECV_B':
      return { stage: stage + 1, kind: 'B', microBatch };
    default:
      return { stage, kind: 'B', microBatch };
  }
}

/** The RECV that brings the input of a compute action from another rank; null where that is on the same rank. */
export function receiveOf(schedule: Schedule, action: ComputeAction): CommunicationAction | null {
  const input = inputOf(schedule, action);
  if (!input || schedule.rankOf(input.stage) === schedule.rankOf(action.stage)) return null;
  return { stage: action.stage, kind: input.kind === 'F' ? 'RECV_F' : 'RECV_B', microBatch: action.microBatch };
}

interface Place {
  /** The action itself: I where a B was asked for. */
  readonly action: Action;
  readonly rank: number;
  readonly step: number;
  /** Among the actions of the rank. */
  readonly index: number;
}

/** Finds actions with micro-batches by what they are. B and I are found by either name. */
export class Places {
  private readonly places = new Map<string, Place>();

  /** @throws ValueError for an action that is there twice */
  constructor(private readonly schedule: Schedule) {
    for (const [rank, steps] of schedule.steps.entries()) {
      let index = 0;
      for (const [step, actions] of steps.entries()) {
        for (const action of actions) this.add({ action, rank, step, index: index++ });
      }
    }
  }

  get(action: Action): Place | undefined {
    return this.places.get(keyOf(action));
  }

  private add(place: Place): void {
    const { action, rank, index } = place;
    if (action.microBatch === null) return;
    const other = this.get(action);
    if (other) {
      const names = other.action.kind === action.kind ? `${formatAction(action)} twice` : `both ${formatAction(other.action)} and ${formatAction(action)}`;
      const at = other.rank === rank ? `rank ${rank}, actions ${other.index + 1} and ${index + 1}` : `ranks ${other.rank} and ${rank}`;
      throw new ValueError(`schedule ${this.schedule.name} has ${names} (${at})`);
    }
    this.places.set(keyOf(action), place);
  }
}

function keyOf({ stage, kind, microBatch }: Action): string {
  return `${stage}${kind === 'I' ? 'B' : kind}${microBatch}`;
}
