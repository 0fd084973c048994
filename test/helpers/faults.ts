// Faults planted into jobs of real processes, and what came of them.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TwoHosts } from './namespaces.js';
import { freePort } from './ports.js';

export const KINDS = ['kill', 'stop', 'throw', 'exit'] as const;
const STAGES = ['joined', 'verification', 'forward', 'backward', 'optimizer', 'collective', 'reading', 'checkpoint'] as const;

/** What a rank's script is told. */
export interface JobPlan {
  readonly kind: (typeof KINDS)[number] | 'cut' | 'order' | 'sleep' | 'none';
  readonly ranks: number;
  readonly transport: 'shm' | 'tcp';
  /** Who comes to grief. */
  readonly rank: number;
  /** In test/children; fault_rank.mjs unless given. */
  readonly script?: string;
}

export interface FaultPlan extends JobPlan {
  /** Where and when. */
  readonly stage: (typeof STAGES)[number] | 'order' | 'start';
  readonly step: number;
  /** Into a checkpoint that is being written, in milliseconds. */
  readonly delay: number;
  readonly milliseconds?: number;
}

export interface RankEvent {
  readonly event: 'fault' | 'caught' | 'done';
  readonly rank: number;
  readonly at: number;
  readonly text: string;
}

export interface Outcome {
  readonly events: readonly RankEvent[];
  /** Exit codes and signals, by rank; of the launcher alone in a job it runs. */
  readonly ends: readonly (number | string | null)[];
  readonly output: string;
  readonly seconds: number;
  /** Processes that were left. */
  readonly orphans: readonly number[];
}

const cli = fileURLToPath(new URL('../../dist/bundle/cli.js', import.meta.url));
const scriptOf = ({ script = 'fault_rank.mjs' }: JobPlan): string => fileURLToPath(new URL(`../children/${script}`, import.meta.url));

/** Fault number `i` of a kind, from a seeded source of numbers in [0, 1). */
export function draw(kind: FaultPlan['kind'], next: () => number): FaultPlan {
  const below = (n: number): number => Math.floor(next() * n);
  const ranks = 2 + below(2);
  const stage = STAGES[below(STAGES.length)]!;
  const before = stage === 'joined' || stage === 'verification';
  // rank 0 writes the checkpoints, after every third step
  return {
    kind,
    ranks,
    transport: below(2) === 0 ? 'shm' : 'tcp',
    rank: below(ranks),
    stage,
    step: before ? 0 : stage === 'checkpoint' ? 3 + 3 * below(2) : 1 + below(7),
    delay: below(5),
  };
}

interface Child {
  readonly process: ChildProcess;
  readonly ended: Promise<number | string | null>;
}

class Watched {
  readonly events: RankEvent[] = [];
  output = '';
  readonly children: Child[] = [];
  onFault = (): void => {};
  readonly start = Date.now();

  spawn(command: readonly string[], env: NodeJS.ProcessEnv): Child {
    const child = spawn(command[0]!, command.slice(1), { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let partial = '';
    child.stdout.on('data', (chunk) => {
      const lines = (partial + chunk).split('\n');
      partial = lines.pop()!;
      for (const line of lines) {
        const json = line.indexOf('{"event"');
        if (json < 0) continue;
        const event = JSON.parse(line.slice(json)) as RankEvent;
        this.events.push(event);
        if (event.event === 'fault') this.onFault();
      }
    });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (this.output += chunk));
    const made = { process: child, ended: new Promise<number | string | null>((resolve) => child.once('close', (code, signal) => resolve(code ?? signal))) };
    this.children.push(made);
    return made;
  }

  /** How all ended; after the time they are killed. */
  async ends(timeoutMs: number, children: readonly Child[] = this.children): Promise<(number | string | null)[]> {
    const late = setTimeout(() => this.kill(), timeoutMs);
    try {
      return await Promise.all(children.map((c) => c.ended));
    } finally {
      clearTimeout(late);
    }
  }

  /** With all they have started: each child leads a group of its own. */
  kill(): number[] {
    return this.children.flatMap(({ process: { pid } }) => {
      try {
        process.kill(-pid!, 'SIGKILL');
        return [pid!];
      } catch {
        return [];
      }
    });
  }

  outcome(ends: readonly (number | string | null)[]): Outcome {
    return { events: this.events, ends, output: this.output, seconds: (Date.now() - this.start) / 1000, orphans: this.kill() };
  }
}

/** Ranks started one by one, as another launcher would that looks after nothing. A stopped rank goes on when the others are through. */
export async function runRanks(plan: JobPlan, timeoutMs: number, env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-fault-'));
  const watched = new Watched();
  try {
    const port = String(await freePort());
    const common = { MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, WORLD_SIZE: `${plan.ranks}`, LOCAL_WORLD_SIZE: `${plan.ranks}`, ...env };
    const token = randomBytes(16).toString('hex');
    const children = Array.from({ length: plan.ranks }, (_, rank) =>
      watched.spawn([process.execPath, scriptOf(plan), JSON.stringify({ ...plan, folder })], {
        ...common,
        RANK: `${rank}`,
        LOCAL_RANK: `${rank}`,
        SHARDGRAD_TOKEN: token,
        SHARDGRAD_TRANSPORT: plan.transport,
        SHARDGRAD_NUM_THREADS: '1',
      }),
    );
    const others = children.filter((_, rank) => plan.kind !== 'stop' || rank !== plan.rank);
    await watched.ends(timeoutMs, others);
    if (plan.kind === 'stop') children[plan.rank]!.process.kill('SIGCONT');
    return watched.outcome(await watched.ends(timeoutMs));
  } finally {
    watched.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A rank on each of two hosts; the link between them is cut where the plan says. */
export async function runHosts(plan: FaultPlan, timeoutMs: number): Promise<Outcome> {
  const hosts = new TwoHosts();
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-fault-'));
  const watched = new Watched();
  try {
    watched.onFault = () => hosts.cut();
    for (const rank of [0, 1]) {
      watched.spawn(hosts.on(rank, [process.execPath, scriptOf(plan), JSON.stringify({ ...plan, folder })]), {
        MASTER_ADDR: hosts.addresses[0],
        MASTER_PORT: '29500',
        WORLD_SIZE: '2',
        LOCAL_WORLD_SIZE: '1',
        RANK: `${rank}`,
        LOCAL_RANK: '0',
        SHARDGRAD_TOKEN: 'a token of this test',
        SHARDGRAD_NUM_THREADS: '1',
      });
    }
    return watched.outcome(await watched.ends(timeoutMs));
  } finally {
    watched.kill();
    hosts.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A job of our launcher. */
export async function runJob(plan: JobPlan, timeoutMs: number, before: readonly string[] = []): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-fault-'));
  const watched = new Watched();
  try {
    const command = [process.execPath, cli, 'run', '--nproc-per-node', `${plan.ranks}`, scriptOf(plan), JSON.stringify({ ...plan, folder })];
    watched.spawn([...before, ...command], { TMPDIR: folder, SHARDGRAD_NUM_THREADS: '1', SHARDGRAD_TRANSPORT: plan.transport });
    return watched.outcome(await watched.ends(timeoutMs));
  } finally {
    watched.kill();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs plans, two at a time; the first mistake is thrown with its plan. */
export async function twoAtATime<P>(plans: readonly P[], run: (plan: P) => Promise<void>): Promise<void> {
  const queue = [...plans];
  const work = async (): Promise<void> => {
    for (let plan = queue.shift(); plan; plan = queue.shift()) {
      try {
        await run(plan);
      } catch (error) {
        queue.length = 0;
        (error as Error).message = `${JSON.stringify(plan)}: ${(error as Error).message}`;
        throw error;
      }
    }
  };
  await Promise.all([work(), work()]);
}
