// Kernels, products of matrices and small calls on a CPU beside PyTorch, and beside tfjs (WebAssembly, one thread) where it has the op: each
// side is a process that times many calls of its own, in turn.
import { Child, compiled, source, withThreads } from './child.js';
import { HOST_CALLS } from './host_calls.js';
import { type KernelCase, kernelCases, SCALES } from './kernel_cases.js';
import { type Group, inTurn, type Rounds, type Row, type Run, row, spread } from './rows.js';

const LIMIT_MS = 120_000;
const RUN_MS = 60;
/** More than a pass over memory: what they have to reach is PyTorch's own fused kernel. */
const FUSED = /^(softmax|layerNorm|rmsNorm|crossEntropy|attention|adamw)/;
const BARS = { each: 0.95, median: 1.5, hostCall: 2.5 };

/** Our process, PyTorch's and tfjs's. */
class Sides {
  private readonly ours: Child;
  private readonly torch: Child | null;
  private readonly tfjs: Child | null;

  constructor(
    private readonly run: Run,
    threads: number,
  ) {
    const env = withThreads(threads);
    this.ours = new Child('shardgrad', process.execPath, [compiled('./kernel_worker.js')], LIMIT_MS, env);
    this.torch = run.python === null ? null : new Child('PyTorch', run.python, ['-u', source('pytorch/kernels.py'), 'cpu'], LIMIT_MS, env);
    this.tfjs = run.tfjs && threads === 1 ? new Child('tfjs', process.execPath, [source('tools/tfjs.mjs')], LIMIT_MS) : null;
  }

  /** `question` to all, as often as there are rounds; `field` of the answers. */
  async ask(question: object, field: 'ms' | 'ns'): Promise<Rounds> {
    const one = (side: Child) => async (): Promise<number> => (await side.ask<Record<string, number>>(question))[field]!;
    // what tfjs cannot do it says in its first answer
    const tfjs = this.tfjs && (await one(this.tfjs)().catch(() => null)) !== null ? this.tfjs : null;
    const present = [this.ours, this.torch, tfjs].filter((side) => side !== null);
    const all = await inTurn(present.map(one), this.run.rounds);
    for (const side of [this.ours, this.torch, this.tfjs]) await side?.ask({ forget: true });
    return { ours: all[0]!, theirs: this.torch && all[1]!, tfjs: tfjs && all.at(-1)! };
  }

  end(): void {
    for (const side of [this.ours, this.torch, this.tfjs]) side?.end();
  }
}

const threadsOf = ({ threads }: Run): number[] => [...new Set([1, threads])];
const on = (threads: number): string => (threads === 1 ? '1 thread' : `${threads} threads`);

/** Of both dtypes; what is of one dtype alone comes once. */
function cpuCases({ quick }: Run): KernelCase[] {
  const scale = quick ? SCALES.tiny : SCALES.cpu;
  return [...kernelCases(scale, 'float32'), ...kernelCases(scale, 'bfloat16').filter(({ dtype }) => dtype === 'bfloat16')];
}
const isProduct = ({ kind }: KernelCase): boolean => kind === 'matmul' || kind === 'linear' || kind === 'weightGradient';

async function* measured(run: Run, cases: readonly KernelCase[], threads: number): AsyncIterable<readonly [KernelCase, Rounds]> {
  const sides = new Sides(run, threads);
  try {
    for (const c of cases) yield [c, await sides.ask({ kind: c.kind, dtype: c.dtype, sizes: c.sizes, runMs: run.quick ? 1 : RUN_MS }, 'ms')];
  } finally {
    sides.end();
  }
}

export const products: Group = async function* (run) {
  for (const threads of threadsOf(run)) {
    for await (const [c, ms] of measured(run, cpuCases(run).filter(isProduct), threads)) {
      const rate = (all: readonly number[] | null | undefined): number[] | null => all?.map((t) => (c.flops! / t) * 1e-6) ?? null;
      const speeds = { ours: rate(ms.ours)!, theirs: rate(ms.theirs), tfjs: rate(ms.tfjs) };
      yield row('products', `${c.name}, ${c.dtype}, ${on(threads)}`, 'GFLOP/s', speeds);
    }
  }
};

export const kernels: Group = async function* (run) {
  const fused: Row[] = [];
  for (const threads of threadsOf(run)) {
    for await (const [c, ms] of measured(
      run,
      cpuCases(run).filter((one) => !isProduct(one)),
      threads,
    )) {
      const name = `${c.name}, ${c.dtype}, ${on(threads)}`;
      const isFused = FUSED.test(c.kind);
      const made = row('kernels', name, 'ms', ms, isFused ? { bar: BARS.each } : {});
      if (isFused && made.ratio) fused.push(made);
      yield made;
    }
  }
  if (fused.length === 0) return;
  const name = `all ${fused.length} fused kernels: median, lowest and highest ratio`;
  const ratio = spread(fused.map((r) => r.ratio!.median));
  yield { group: 'kernels', name, unit: '', ours: null, theirs: null, tfjs: null, ratio, bar: BARS.median, note: '' };
};

export const calls: Group = async function* (run) {
  const sides = new Sides(run, 1);
  try {
    for (const name of HOST_CALLS) {
      const host = name === 'a.add(b)';
      yield row('calls', name, 'ns', await sides.ask({ host: name }, 'ns'), host ? { bar: BARS.hostCall } : {});
    }
  } finally {
    sides.end();
  }
};
