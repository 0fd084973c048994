// Which steps of a training are recorded, as in PyTorch's torch.profiler.schedule.
import { checkInteger } from '../numbers.js';

/** Options of `schedule`, PyTorch's in camelCase. */
export interface ScheduleOptions {
  /** Steps before anything, once. Default 0. */
  skipFirst?: number;
  /** Steps of each cycle that are left alone. Default 0. */
  wait?: number;
  /** Steps after them that are recorded and thrown away, so that what happens the first time is over. Default 0. */
  warmup?: number;
  /** Steps after them that a profile is made of. Default 1. */
  active?: number;
  /** Cycles; 0: until the end. Default 0. */
  repeat?: number;
}

/** What becomes of a step: nothing, recorded and thrown away, recorded, or recorded as the last one of a profile. */
export type Phase = 'none' | 'warmup' | 'record' | 'recordAndSave';

/** What to do with a step, counted from 0; `recordAndSave` is the last one of a profile. */
export type Schedule = (step: number) => Phase;

/** A schedule of cycles: wait, warm up, record. @throws ValueError for counts that are no whole numbers from 0 (`active`: from 1) */
export function schedule({ skipFirst = 0, wait = 0, warmup = 0, active = 1, repeat = 0 }: ScheduleOptions = {}): Schedule {
  for (const [name, value] of Object.entries({ skipFirst, wait, warmup, repeat })) checkInteger(value, name, 'profiler.schedule', 0);
  checkInteger(active, 'active', 'profiler.schedule', 1);
  const cycle = wait + warmup + active;
  return (step) => {
    const since = step - skipFirst;
    if (since < 0 || (repeat > 0 && since >= repeat * cycle)) return 'none';
    const at = since % cycle;
    if (at < wait) return 'none';
    if (at < wait + warmup) return 'warmup';
    return at === cycle - 1 ? 'recordAndSave' : 'record';
  };
}
