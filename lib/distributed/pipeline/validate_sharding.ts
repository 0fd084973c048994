// The part of a plan that fully sharded stages add: parameters are there when they are used, and gradients are summed once, at the end.
import { ValueError } from '../../errors.js';
import { formatAction, isCompute } from './action.js';
import type { Schedule } from './schedule.js';

/** @throws ValueError for an UNSHARD, RESHARD or REDUCE_GRAD at a wrong place */
export function checkSharding(schedule: Schedule): void {
  for (const [rank, actions] of schedule.actions.entries()) {
    const sharded = new Set(actions.filter(({ kind }) => kind === 'UNSHARD' || kind === 'RESHARD').map(({ stage }) => stage));
    const whole = new Set<number>();
    const reduced = new Set<number>();
    for (const action of actions) {
      const { stage, kind } = action;
      const refuse = (why: string): never => {
        throw new ValueError(`schedule ${schedule.name}: rank ${rank} has ${formatAction(action)} ${why}`);
      };
      if (isCompute(action) && sharded.has(stage) && !whole.has(stage)) refuse(`while stage ${stage} is sharded; it needs a ${stage}UNSHARD before`);
      if (isCompute(action) && kind !== 'F' && reduced.has(stage)) refuse(`after ${stage}REDUCE_GRAD, which comes after the last backward of the stage`);
      if (kind === 'UNSHARD') {
        if (whole.has(stage)) refuse('twice without a RESHARD between');
        whole.add(stage);
      }
      if (kind === 'RESHARD' && !whole.delete(stage)) refuse(`without a ${stage}UNSHARD before`);
      if (kind === 'REDUCE_GRAD') {
        if (reduced.has(stage)) refuse('twice');
        reduced.add(stage);
      }
    }
    const [left] = whole;
    if (left !== undefined) throw new ValueError(`schedule ${schedule.name}: rank ${rank} ends without ${left}RESHARD`);
  }
}
