// A job from its first start to its last: start the ranks, wait for whatever ends them (all done, a failure here or elsewhere, a signal),
// end the others, and start again while that is allowed. Every launcher decides by the same record in the store, so all decide alike.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { DistributedError } from '../../errors.js';
import { PROFILE_FOLDER, PROFILE_STEPS } from '../../profiler/environment_names.js';
import { FLIGHT_FOLDER, flightFolder, makeFlightFolder, pruneFlights, recordingsIn, removeFlights, writeJobAddress } from '../flight.js';
import { keysOf, neverCame } from '../rendezvous.js';
import { removeSegments } from '../segment_name.js';
import { Store } from '../store.js';
import { StoreServer } from '../store_server.js';
import { Agreement, type Failure, type Placement } from './agreement.js';
import { causeOf } from './blame.js';
import { answer } from './debug.js';
import { Keeper } from './keeper.js';
import type { Terminal } from './output.js';
import type { Plan } from './plan.js';
import { codeOfSignal, RankProcess } from './rank_process.js';

/** After a failure, how long the other ranks have between SIGTERM and SIGKILL. */
const FAILURE_GRACE_MS = 5000;
/** After so long a launcher says for which others it waits. */
const LATE_MS = 5000;
/** Beyond the time ranks have to end, how long the first launcher keeps the store for the others. */
const LEAVE_GRACE_MS = 10_000;

/** Signals as the launcher gets them. */
export interface Signals {
  /** Resolves with the first. */
  readonly first: Promise<NodeJS.Signals>;
  /** Resolves with the second: the user will not wait. */
  readonly second: Promise<NodeJS.Signals>;
}

export interface JobTerminals {
  readonly out: Terminal;
  readonly err: Terminal;
}

/** Runs a job, or this host's part of it. Returns the exit code: that of the rank that failed first. */
export async function runJob(plan: Plan, signals: Signals, terminals: JobTerminals): Promise<number> {
  const say = (line: string): unknown => terminals.err.write(`shardgrad run: ${line}\n`);
  const server = plan.bindAddress === null ? null : await hostStore(plan, plan.bindAddress, say);
  const keeper = new Keeper();
  await pruneFlights();
  let store: Store | null = null;
  try {
    const giveUp = new AbortController();
    void signals.first.then(() => giveUp.abort());
    const connecting = Store.connect({ host: plan.storeHost, port: server?.port ?? plan.storePorts, token: plan.token, abort: giveUp.signal });
    const notice = `waiting for the launcher of node 0, on ${plan.masterAddr}:${plan.storePorts[0]}`;
    const connected = await patiently(Promise.race([connecting, signals.first]), () => say(notice));
    if (typeof connected === 'string') return codeOfSignal(connected);
    store = connected;
    const agreement = new Agreement(store.prefix(`launchers/${plan.runId}`), plan);
    const flights = flightFolder(plan.runId);
    if (plan.nnodes > 1) void answer(store, plan.runId, flights);
    const job = new Job(plan, agreement, store, keeper, signals, terminals, say);
    try {
      const exitCode = await job.run();
      if (exitCode === 0 || recordingsIn(flights, job.attempts - 1).length === 0) removeFlights(flights, job.ranks);
      return exitCode;
    } finally {
      // the others need the store to learn how it ended
      await agreement.leave(Math.max(FAILURE_GRACE_MS, plan.shutdownTimeoutMs) + LEAVE_GRACE_MS).catch(() => {});
    }
  } finally {
    store?.close();
    await server?.close();
    keeper.close();
  }
}

async function hostStore({ token, storePorts }: Plan, host: string, log: (line: string) => void): Promise<StoreServer> {
  const [first, ...others] = storePorts;
  try {
    return await StoreServer.listen({ token, host, port: first!, log });
  } catch (error) {
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    if (code !== 'EADDRINUSE' || others[0] === undefined) throw error;
    return await StoreServer.listen({ token, host, port: others[0], log });
  }
}

/** Waits, and when that takes long says so once. */
async function patiently<T>(event: Promise<T>, notice: () => void): Promise<T> {
  const late = setTimeout(notice, LATE_MS);
  try {
    return await event;
  } finally {
    clearTimeout(late);
  }
}

function portOf({ address }: Store): number {
  return Number(address.slice(address.lastIndexOf(':') + 1));
}

class Job {
  /** Starts so far. */
  attempts = 0;
  private flights: string | null = null;
  /** Of this host, as of the last start. */
  ranks: readonly number[] = [];

  constructor(
    private readonly plan: Plan,
    private readonly agreement: Agreement,
    private readonly store: Store,
    private readonly keeper: Keeper,
    private readonly signals: Signals,
    private readonly terminals: JobTerminals,
    private readonly say: (line: string) => unknown,
  ) {}

  async run(): Promise<number> {
    const { plan, agreement, signals } = this;
    for (let attempt = 0; ; attempt++) {
      this.attempts = attempt + 1;
      const placement = await patiently(Promise.race([agreement.join(attempt), signals.first]), () => void this.sayWhoIsMissing(attempt));
      if (typeof placement === 'string') {
        const { how, exitCode } = await agreement.report(attempt, this.endedBy(placement));
        this.say(how);
        return exitCode;
      }
      if (attempt === 0) this.introduce(placement);
      const failure = await this.attempt(attempt, placement);
      if (failure === null) return 0;
      if (failure.final || attempt >= plan.maxRestarts) {
        this.explain(failure, attempt);
        return failure.exitCode;
      }
      const restart = `starting all ${placement.worldSize} ranks again (restart ${attempt + 1} of ${plan.maxRestarts})`;
      this.say(`${failure.rank === null ? '' : `rank ${failure.rank} failed first: `}${failure.how}; ${restart}`);
    }
  }

  private async sayWhoIsMissing(attempt: number): Promise<void> {
    const nodes = await this.agreement.missing(attempt).catch(() => []); // the store has gone: that ends the waiting, too
    if (nodes.length > 0) this.say(`waiting for the ${nodes.length === 1 ? 'launcher of node' : 'launchers of nodes'} ${nodes.join(', ')}`);
  }

  /** One start of all ranks. Returns what ended it early, or null when every rank of every host ended well. */
  private async attempt(attempt: number, placement: Placement): Promise<Failure | null> {
    const { agreement, signals } = this;
    const ranks = this.start(attempt, placement);
    const ends = Promise.all(ranks.map((rank) => rank.ended));
    for (const rank of ranks) void rank.exited.then(() => neverCame(this.keys(attempt), rank.rank)).catch(() => {});
    const failedHere = new Promise<Failure>((resolve) => {
      for (const rank of ranks) {
        void rank.exited.then((code) => {
          if (code !== 0) resolve(this.failureOf(rank, ranks, attempt));
        });
      }
    });
    const doneHere = ends.then((all) => (all.every(({ exitCode }) => exitCode === 0) ? null : new Promise<never>(() => {})));
    const signalled = signals.first.then((signal) => this.endedBy(signal));
    const over = new AbortController();
    const silence = this.plan.nnodes > 1 ? [agreement.silence(over.signal)] : [];
    let verdict: Failure | null;
    try {
      verdict = await Promise.race([
        Promise.race([failedHere, signalled, ...silence]).then((failure) => agreement.report(attempt, failure)),
        agreement.failure(attempt),
        doneHere.then(() => agreement.done(attempt)).then(() => null),
      ]);
    } catch (error) {
      if (!(error instanceof DistributedError)) throw error;
      verdict = agreement.failureHere({ how: error.message, exitCode: 1, final: true });
    } finally {
      over.abort();
    }
    if (verdict === null) {
      this.sweep(attempt);
      return null;
    }
    await this.end(ranks, verdict.signal ?? 'SIGTERM', verdict.signal ? this.plan.shutdownTimeoutMs : FAILURE_GRACE_MS);
    this.sweep(attempt);
    // told to end, and all did so well: a checkpoint is saved, nothing has failed
    if (verdict.signal && (await ends).every(({ exitCode }) => exitCode === 0)) return { ...verdict, exitCode: 0 };
    return verdict;
  }

  /** The failure of the first rank that ended ill, or of the one it failed for. */
  private async failureOf(first: RankProcess, ranks: readonly RankProcess[], attempt: number): Promise<Failure> {
    const { process, note } = await causeOf(first, ranks, this.flights, attempt);
    const { rank, how, exitCode, tail } = await process.ended;
    return this.agreement.failureHere({ rank, how: how + note, exitCode, tail });
  }

  /** What ranks know their start of the job by. */
  private names(attempt: number): NodeJS.ProcessEnv {
    const { token, runId } = this.plan;
    return { SHARDGRAD_TOKEN: token, SHARDGRAD_RUN_ID: runId, SHARDGRAD_RESTART_COUNT: String(attempt) };
  }

  /** All its ranks have ended: what is left under their names is nobody's. */
  private sweep(attempt: number): void {
    removeSegments(this.names(attempt));
  }

  /** Of the ranks of one start, in the store. */
  private keys(attempt: number): Store {
    return keysOf(this.store, this.plan.runId, attempt);
  }

  private endedBy(signal: NodeJS.Signals): Failure {
    return this.agreement.failureHere({ how: `ended by ${signal}`, exitCode: codeOfSignal(signal), signal, final: true });
  }

  private start(attempt: number, { firstRank, worldSize }: Placement): RankProcess[] {
    const { plan } = this;
    const storePort = portOf(this.store);
    const flights = makeFlightFolder(flightFolder(plan.runId), attempt);
    this.flights = flights;
    if (flights !== null) {
      const address = { storeHost: plan.storeHost, storePort, token: plan.token };
      writeJobAddress(flights, { runId: plan.runId, worldSize, nnodes: plan.nnodes, ...address });
    }
    // another launcher's marks do not hold for what we start
    const inherited = Object.fromEntries(Object.entries(plan.env).filter(([name]) => !name.startsWith('TORCHELASTIC_')));
    this.ranks = Array.from({ length: plan.count }, (_, i) => firstRank + i);
    const threads = Math.max(1, Math.floor(availableParallelism() / plan.count));
    return this.ranks.map((rank, localRank) => {
      const env: NodeJS.ProcessEnv = {
        ...inherited,
        RANK: String(rank),
        WORLD_SIZE: String(worldSize),
        LOCAL_RANK: String(localRank),
        LOCAL_WORLD_SIZE: String(plan.count),
        GROUP_RANK: String(plan.nodeRank),
        GROUP_WORLD_SIZE: String(plan.nnodes),
        MASTER_ADDR: plan.storeHost,
        MASTER_PORT: String(plan.masterPort ?? storePort),
        SHARDGRAD_STORE_PORT: String(storePort),
        [FLIGHT_FOLDER]: flights ?? '',
        ...this.names(attempt),
        SHARDGRAD_MAX_RESTARTS: String(plan.maxRestarts),
        // where standard output is a pipe to a terminal that shows lines rewritten by \r
        SHARDGRAD_LIVE_LINE: this.terminals.out.live ? '1' : '',
        ...(plan.profile ? { [PROFILE_FOLDER]: plan.profile.folder, [PROFILE_STEPS]: plan.profile.steps } : {}),
        SHARDGRAD_NUM_THREADS: plan.env['SHARDGRAD_NUM_THREADS'] || String(threads),
      };
      const logFolder = plan.logFolder === null ? null : join(plan.logFolder, `attempt_${attempt}`, String(rank));
      return new RankProcess({ rank, program: plan.program, env, logFolder, ...this.terminals, keeper: this.keeper });
    });
  }

  /** Ends all ranks: by the signal, then after the time, or when the user insists, by SIGKILL. */
  private async end(ranks: readonly RankProcess[], signal: NodeJS.Signals, graceMs: number): Promise<void> {
    for (const rank of ranks) rank.signal(signal);
    // one that is stopped would not notice
    for (const rank of ranks) rank.signal('SIGCONT');
    const kill = (): void => {
      for (const rank of ranks) rank.signal('SIGKILL');
    };
    const late = setTimeout(kill, graceMs);
    void this.signals.second.then(kill);
    await Promise.all(ranks.map((rank) => rank.ended));
    clearTimeout(late);
  }

  private introduce({ firstRank, worldSize }: Placement): void {
    const { plan } = this;
    const last = firstRank + plan.count - 1;
    const here = plan.nnodes === 1 ? '' : `; node ${plan.nodeRank} of ${plan.nnodes}: ${firstRank === last ? `rank ${last}` : `ranks ${firstRank} to ${last}`}`;
    this.say(`${worldSize} ${worldSize === 1 ? 'rank' : 'ranks'}, job ${plan.runId}, store ${plan.masterAddr}:${portOf(this.store)}${here}`);
  }

  /** Says last what failed first. */
  private explain(failure: Failure, attempt: number): void {
    const { plan } = this;
    if (failure.rank === null) {
      this.say(failure.how);
      return;
    }
    const place = plan.nnodes === 1 ? '' : ` on ${failure.host} (node ${failure.nodeRank})`;
    const starts = plan.maxRestarts === 0 ? '' : `, after ${attempt} of ${plan.maxRestarts} restarts`;
    const recorded = recordingsIn(flightFolder(plan.runId), attempt).length > 0;
    const dump = recorded ? ` What all ranks were doing: shardgrad debug dump ${plan.runId}.` : '';
    const tail = failure.tail.length === 0 ? 'It wrote nothing to standard error.' : 'Its last lines on standard error:';
    this.say(`rank ${failure.rank}${place} failed first: ${failure.how}${starts}.${dump} ${tail}`);
    for (const line of failure.tail) this.terminals.err.write(`${this.terminals.err.prefix(failure.rank)}${line}\n`);
    if (plan.logFolder !== null && failure.nodeRank === plan.nodeRank)
      this.say(`its output is in ${join(plan.logFolder, `attempt_${attempt}`, String(failure.rank))}`);
  }
}
