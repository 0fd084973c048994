// Everything a user can call: functions, constructors and forwards of modules, methods of tensors. Found by looking, not listed,
// so a new function is called too.
import * as sg from '../../lib/index.js';

export interface Callable {
  readonly name: string;
  /** A method of a tensor: the first argument is the tensor. */
  readonly isMethod: boolean;
  readonly call: (args: readonly unknown[]) => unknown;
}

// Those that print, that stop or reconfigure what other calls rely on, or that run what they are given for as long as it likes.
const left = new Set(['collectGarbage', 'emptyCache', 'resetPeakMemory', 'setNumThreads', 'checkLeaks', 'print', 'constructor']);

const { nn } = sg;
const layers: readonly (() => sg.nn.Module)[] = [
  () => new nn.Linear(3, 2),
  () => new nn.Embedding(5, 3),
  () => new nn.LayerNorm(3),
  () => new nn.RMSNorm([3, 4]),
  () => new nn.GroupNorm(1, 3),
  () => new nn.BatchNorm1d(3),
  () => new nn.BatchNorm2d(2),
  () => new nn.Conv1d(3, 2, 2),
  () => new nn.Conv2d(2, 2, 2),
  () => new nn.MaxPool2d(2),
  () => new nn.MultiheadAttention(4, 2, { rotary: true }),
  () => new nn.TransformerEncoderLayer(4, 2, { dimFeedforward: 4 }),
  () => new nn.TransformerDecoderLayer(4, 2, { dimFeedforward: 4 }),
  () => new nn.Transformer(4, 2, { numEncoderLayers: 1, numDecoderLayers: 1, dimFeedforward: 4 }),
  () => new nn.ConvTranspose1d(3, 2, 2),
  () => new nn.ConvTranspose2d(2, 2, 2, { stride: 2 }),
  () => new nn.Upsample({ scaleFactor: 2, mode: 'bilinear' }),
  () => new nn.Fold(3, 2),
  () => new nn.ReflectionPad2d(1),
  () => new nn.PReLU(3),
  () => new nn.TripletMarginLoss(),
  () => new nn.LSTM(4, 2),
  () => new nn.GRU(4, 2, { batchFirst: true }),
  () => new nn.CrossEntropyLoss(),
  () => new nn.Sequential(new nn.Linear(3, 3), new nn.GELU()),
  () => new nn.GPT({ vocabSize: 5, layers: 1, heads: 1, dim: 4, context: 4 }),
];

type AnyFunction = (...args: readonly unknown[]) => unknown;

function members(space: string, of: object): Callable[] {
  return Object.entries(of).flatMap(([name, member]): Callable[] => {
    if (typeof member !== 'function' || left.has(name)) return [];
    const isClass = /^class\b/.test(Function.prototype.toString.call(member));
    if (isClass && space === '') return []; // Tensor, Device, Scope: not made by hand
    const call = isClass
      ? (args: readonly unknown[]) => new (member as new (...a: readonly unknown[]) => unknown)(...args)
      : (args: readonly unknown[]) => (member as AnyFunction)(...args);
    return [{ name: `${space}${name}`, isMethod: false, call }];
  });
}

function methods(): Callable[] {
  return Object.getOwnPropertyNames(sg.Tensor.prototype).flatMap((name): Callable[] => {
    const { value } = Object.getOwnPropertyDescriptor(sg.Tensor.prototype, name)!;
    const isPrivate = name.startsWith('check') || name.startsWith('read');
    if (typeof value !== 'function' || left.has(name) || isPrivate) return [];
    return [{ name: `Tensor.${name}`, isMethod: true, call: ([self, ...args]) => (value as AnyFunction).apply(self, args) }];
  });
}

export function callables(): Callable[] {
  const forwards = layers.map((make): Callable => {
    const name = `${make().constructor.name}.forward`;
    return { name, isMethod: false, call: (args) => (make().forward as AnyFunction)(...args) };
  });
  return [...members('', sg), ...members('nn.', nn), ...members('nn.init.', nn.init), ...members('optim.', sg.optim), ...methods(), ...forwards];
}

/** A call in words. */
export function show(x: unknown): string {
  if (x instanceof sg.Tensor) return `${x.dtype}[${x.shape}]${x.disposed ? ' disposed' : x.isMeta ? ' meta' : ''}`;
  if (Array.isArray(x)) return `[${x.map(show).join(', ')}]`;
  if (typeof x === 'object' && x !== null) {
    const isPlain = Object.getPrototypeOf(x) === Object.prototype;
    return isPlain ? `{${Object.entries(x).map(([k, v]) => `${k}: ${show(v)}`)}}` : (x.constructor?.name ?? 'object');
  }
  return typeof x === 'bigint' ? `${x}n` : typeof x === 'function' ? 'a function' : String(x);
}

/** Collects what calls must not end in: anything but success and a ShardgradError, one example for each place. */
export class Judge {
  private readonly wrong = new Map<string, string>();
  refused = 0;

  consider(call: string, error: unknown): void {
    this.refused++;
    if (error instanceof sg.ShardgradError) {
      if (error.message.length < 8 || error.code !== error.constructor.name) this.wrong.set(`${error.code} "${error.message}"`, call);
      return;
    }
    const stack = error instanceof Error ? (error.stack ?? '').split('\n') : [];
    const place = stack.find((line) => line.includes('/lib/'))?.trim() ?? String(error);
    if (!this.wrong.has(place)) this.wrong.set(place, `${call} → ${String(error)}`);
  }
  get complaints(): string[] {
    return [...this.wrong].map(([place, call]) => `${call} ${place}`);
  }
}

/** Runs one call in a scope of its own and waits for it. */
export async function attempt(name: string, make: () => { readonly shown: string; readonly call: () => unknown }, judge: Judge): Promise<boolean> {
  let shown = name;
  try {
    await sg.scope(() => {
      const made = make();
      shown = made.shown;
      const result = made.call();
      return result instanceof Promise ? result.then(() => undefined) : undefined;
    });
    sg.synchronizeSync();
    return true;
  } catch (error) {
    judge.consider(shown, error);
    return false;
  }
}
