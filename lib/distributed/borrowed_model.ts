// A user's model in a dry run: its parameters and buffers get other storages for the time, and when it ends everything that hangs on its tensors
// and modules is as it was.
import type { Device } from '../device.js';
import type { DryRun } from '../dry_run.js';
import type { Module } from '../nn/module.js';
import { Storage } from '../storage.js';
import type { Tensor } from '../tensor.js';

/** Memory, counted on `device`, in the place of another storage. */
export function counted(run: DryRun, s: Storage, device: Device): Storage {
  const made = new Storage(0, device, s.bytes, null);
  run.give(made);
  made.kind = s.kind;
  return made;
}

/** Runs `fn`, in which the model's tensors are on `device`. */
export function borrowed<T>(model: Module, run: DryRun, device: Device, fn: () => T): T {
  const tensors = new Map<Tensor, object>([...model.parameters(), ...model.buffers()].map((t) => [t, { ...t }]));
  const modules = model.modules().map((module) => ({ module, before: Object.getOwnPropertyDescriptors(module), values: buffersOf(module) }));
  const storages = new Map<Storage, Storage>();
  for (const t of tensors.keys()) {
    const storage = storages.get(t.storage) ?? counted(run, t.storage, device);
    storages.set(t.storage, storage);
    Object.assign(t, { storage, grad: null });
  }
  try {
    return fn();
  } finally {
    for (const { module, before, values } of modules) {
      for (const key of Object.getOwnPropertyNames(module)) if (!Object.hasOwn(before, key)) delete (module as unknown as Record<string, unknown>)[key];
      Object.defineProperties(module, before);
      Object.assign(module, values);
    }
    for (const [t, fields] of tensors) Object.assign(t, fields);
  }
}

/** Buffers are behind accessors. */
function buffersOf(module: Module): Record<string, unknown> {
  const accessors = Object.entries(Object.getOwnPropertyDescriptors(module)).filter(([, property]) => property.get);
  return Object.fromEntries(accessors.map(([name]) => [name, (module as unknown as Record<string, unknown>)[name]]));
}
