// Gradient modes. Each takes a function, also an async one: the mode holds for everything the function awaits.
import { context, withContext } from '../context.js';

/** Runs `fn` without recording a graph. */
export function noGrad<T>(fn: () => T): T {
  return withContext({ gradEnabled: false }, fn);
}

/** Runs `fn` with recording on, inside a noGrad. */
export function enableGrad<T>(fn: () => T): T {
  return withContext({ gradEnabled: true, inference: false }, fn);
}

/** As noGrad, and what is made inside may not be used in a graph later. */
export function inferenceMode<T>(fn: () => T): T {
  return withContext({ gradEnabled: false, inference: true }, fn);
}

/** Runs `fn` so that a backward inside checks every gradient for NaN and names the forward call that made it. Slow. */
export function detectAnomaly<T>(fn: () => T): T {
  return withContext({ anomaly: true }, fn);
}

/** Whether operations are recorded here: false inside noGrad and inferenceMode. */
export function isGradEnabled(): boolean {
  return context().gradEnabled;
}
