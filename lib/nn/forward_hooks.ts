// What a module keeps beside its state: hooks of its forward, and the forward itself as the constructor has wrapped it.
import type { Module } from './module.js';

/** Called before a module's forward with its arguments; an array that it returns takes their place. */
export type ForwardPreHook = (module: Module, args: unknown[]) => unknown[] | undefined | void;
/** Called after a module's forward with arguments and output; what it returns, unless undefined, takes the output's place. */
export type ForwardHook = (module: Module, args: unknown[], output: unknown) => unknown;

/** Forwards as the constructor has wrapped them: a copy of the module gets one of its own. */
export const plainForwards: WeakSet<object> = new WeakSet();

/** A property that is no submodule, parameter or state. */
export function hide(target: object, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, writable: true, configurable: true, enumerable: false });
}
