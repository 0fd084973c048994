// What `shardgrad run --profile` tells its ranks. Apart from what reads it, since the launcher does not load the addon.

/** The folder that ranks write their profiles to. */
export const PROFILE_FOLDER = 'SHARDGRAD_PROFILE';
/** The optimizer's steps that are recorded, from 1, as `10-14`. */
export const PROFILE_STEPS = 'SHARDGRAD_PROFILE_STEPS';
export const DEFAULT_STEPS = '10-14';

/** The first and the last step of `10-14`, or of `10`; null for what is none. */
export function parseSteps(text: string): readonly [first: number, last: number] | null {
  const match = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
  return match && first >= 1 && last >= first ? [first, last] : null;
}
