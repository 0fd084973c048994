// Checks of numbers that users pass. Apart from shapes, so that programs which compute nothing, such as the launcher, do not load
// the addon.
import { describe, ValueError } from './errors.js';

export function checkInteger(value: unknown, name: string, where: string, min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
    throw new ValueError(
      `${where}: ${name} must be a whole number${min > Number.MIN_SAFE_INTEGER ? ` from ${min}` : ''}${max < Number.MAX_SAFE_INTEGER ? ` to ${max}` : ''}, got ${describe(value)}`,
    );
  }
  return value;
}

export function checkNumber(value: unknown, name: string, where: string, min = -Infinity, max = Infinity): number {
  if (typeof value !== 'number' || Number.isNaN(value) || value < min || value > max) {
    throw new ValueError(
      `${where}: ${name} must be a number${min > -Infinity ? ` from ${min}` : ''}${max < Infinity ? ` to ${max}` : ''}, got ${describe(value)}`,
    );
  }
  return value;
}
