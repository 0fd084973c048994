// What the launchers of a job's hosts say to each other through the store: that they are there and with how many ranks, the first
// failure, that all is done. One launcher alone goes the same way. A launcher that vanishes leaves a failure behind as its last will.
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { DistributedError } from '../../errors.js';
import type { Store } from '../store.js';
import type { Plan } from './plan.js';

/** How long to wait for the launchers of all hosts. */
const JOIN_TIMEOUT_MS = 600_000;
/** Launchers of several hosts give a sign of life so often, and one that gave none for so long is lost: a cut link closes no connection. */
const BEAT_MS = 2000;
const SILENCE_MS = 10_000;

/** Why a job, or one start of it, ended before its time. */
export interface Failure {
  readonly host: string;
  readonly nodeRank: number;
  /** Null: no rank failed, the launcher itself ended or was told to. */
  readonly rank: number | null;
  readonly how: string;
  readonly exitCode: number;
  readonly tail: readonly string[];
  /** Set when somebody asked for the end by a signal to a launcher. */
  readonly signal: NodeJS.Signals | null;
  /** Starting again is no remedy: a launcher is gone, or somebody asked for the end. */
  readonly final: boolean;
}

interface Member {
  readonly host: string;
  readonly count: number;
  readonly nnodes: number;
  readonly maxRestarts: number;
}

/** The ranks of this host within the job. */
export interface Placement {
  readonly firstRank: number;
  readonly worldSize: number;
}

export class Agreement {
  /** How far this launcher has come: those who never joined owe nobody a farewell. */
  private state: 'outside' | 'waiting' | 'joined' = 'outside';
  /** Nodes that were given up. */
  private readonly lost = new Set<number>();

  constructor(
    private readonly store: Store,
    private readonly plan: Plan,
  ) {}

  /**
   * Waits until all hosts are ready for a start of the job.
   * @throws DistributedError when one does not come, or was started with other options
   */
  async join(attempt: number): Promise<Placement> {
    const { plan, store } = this;
    const me: Member = { host: hostname(), count: plan.count, nnodes: plan.nnodes, maxRestarts: plan.maxRestarts };
    const key = (node: number): string => readyKey(attempt, node);
    const { swapped, value } = await store.compareSet(key(plan.nodeRank), null, JSON.stringify(me));
    if (!swapped) {
      const other = JSON.parse(String(value)) as Member;
      throw new DistributedError(`--node-rank ${plan.nodeRank} is taken: the launcher on ${other.host} has it`);
    }
    this.state = 'waiting';
    const gone = this.failureHere({ how: `the launcher on ${me.host} (node ${plan.nodeRank}) ended or lost its connection`, exitCode: 1, final: true });
    await store.will(`failure/${attempt}`, JSON.stringify(gone));
    await store.will(`left/node ${plan.nodeRank}`, '');
    await store.add(`alive/node ${plan.nodeRank}`);
    const nodes = Array.from({ length: plan.nnodes }, (_, node) => node);
    const early = this.failure(attempt).then(({ how }) => {
      throw new DistributedError(how);
    });
    await Promise.race([store.wait(nodes.map(key), { timeoutMs: JOIN_TIMEOUT_MS }), early]);
    this.state = 'joined';
    const members = await Promise.all(nodes.map(async (node) => JSON.parse(String(await store.get(key(node)))) as Member));
    for (const [node, member] of members.entries()) {
      for (const [name, option] of [
        ['nnodes', '--nnodes'],
        ['maxRestarts', '--max-restarts'],
      ] as const) {
        if (member[name] === me[name]) continue;
        const how = `node ${node} (${member.host}) was started with ${option} ${member[name]}, node ${plan.nodeRank} (${me.host}) with ${me[name]}`;
        // one that waits for hosts that no other knows of would not find out
        await this.report(attempt, this.failureHere({ how, exitCode: 1, final: true }));
        throw new DistributedError(how);
      }
    }
    const sum = (upTo: number): number => members.slice(0, upTo).reduce((total, { count }) => total + count, 0);
    return { firstRank: sum(plan.nodeRank), worldSize: sum(plan.nnodes) };
  }

  /** Hosts that are not ready for a start of the job. */
  async missing(attempt: number): Promise<number[]> {
    const keys = Array.from({ length: this.plan.nnodes }, (_, node) => readyKey(attempt, node));
    const missing = await this.store.missing(keys, { timeoutMs: 0 });
    return missing.map((key) => keys.indexOf(key));
  }

  /** A failure on this host. */
  failureHere(facts: Pick<Failure, 'how' | 'exitCode'> & Partial<Failure>): Failure {
    return { host: hostname(), nodeRank: this.plan.nodeRank, rank: null, tail: [], signal: null, final: false, ...facts };
  }

  /** Reports a failure and gives the first that was reported: the one all go by. Without a store each goes by its own, to the end. */
  async report(attempt: number, failure: Failure): Promise<Failure> {
    try {
      const { value } = await this.store.compareSet(`failure/${attempt}`, null, JSON.stringify(failure), { timeoutMs: SILENCE_MS });
      return JSON.parse(String(value)) as Failure;
    } catch (error) {
      if (!(error instanceof DistributedError)) throw error;
      return { ...failure, final: true };
    }
  }

  /** Resolves when a failure is reported, by whichever host. */
  async failure(attempt: number): Promise<Failure> {
    return JSON.parse(String(await this.store.get(`failure/${attempt}`, { timeoutMs: Infinity }))) as Failure;
  }

  /**
   * Gives signs of life, and on the first host watches those of the others.
   * @param over ends it
   * @returns the failure of a launcher that gives none. Rejects with a DistributedError when the store gives none
   */
  async silence(over: AbortSignal): Promise<Failure> {
    const { plan, store } = this;
    const last = new Map<number, { count: string; at: number }>();
    for (;;) {
      await store.add(`alive/node ${plan.nodeRank}`, 1, { timeoutMs: SILENCE_MS });
      for (let node = 1; node < plan.nnodes && plan.nodeRank === 0; node++) {
        const count = String(await store.get(`alive/node ${node}`));
        const before = last.get(node);
        if (count !== before?.count) last.set(node, { count, at: Date.now() });
        else if (Date.now() - before.at > SILENCE_MS) {
          this.lost.add(node);
          return this.failureHere({ how: `the launcher of node ${node} gave no sign of life for ${SILENCE_MS / 1000} s`, exitCode: 1, final: true });
        }
      }
      await sleep(BEAT_MS, null, { signal: over });
    }
  }

  /** Says that all ranks of this host ended well, and waits for those of the others. */
  async done(attempt: number): Promise<void> {
    const { plan, store } = this;
    const all = Array.from({ length: plan.nnodes }, (_, node) => `done/${attempt}/node ${node}`);
    // sent together: another that is through may end, with its will, before a second round trip
    await Promise.all([store.set(all[plan.nodeRank]!, ''), store.wait(all, { timeoutMs: Infinity })]);
    await store.will(`failure/${attempt}`, null);
  }

  /** Says that this launcher needs the store no more; the one that runs it waits until none does, or for so long. */
  async leave(timeoutMs: number): Promise<void> {
    const { plan, store, state } = this;
    if (state === 'outside') return;
    await store.set(`left/node ${plan.nodeRank}`, '', { timeoutMs: BEAT_MS });
    const others = Array.from({ length: plan.nnodes }, (_, node) => node).filter((node) => !this.lost.has(node));
    const keys = others.map((node) => `left/node ${node}`);
    if (plan.nodeRank === 0) await store.wait(keys, { timeoutMs: state === 'joined' ? timeoutMs : Math.min(timeoutMs, 1000) });
  }
}

function readyKey(attempt: number, node: number): string {
  return `ready/${attempt}/node ${node}`;
}
