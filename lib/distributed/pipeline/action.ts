// One thing that a rank does in a pipeline: a stage, a kind and a micro-batch, written `2F0`. The text is that of PyTorch's pipelining,
// so plans can be exchanged with it; what it would read past (`2F0x`) is refused here.
import { describe, ValueError } from '../../errors.js';

const COMPUTE = ['F', 'B', 'I', 'W'] as const;
const COMMUNICATION = ['SEND_F', 'RECV_F', 'SEND_B', 'RECV_B'] as const;
const SHARDING = ['UNSHARD', 'RESHARD', 'REDUCE_GRAD'] as const;

/** F forward; B whole backward, or I gradient of the input and later W gradients of the weights. */
export type ComputeKind = (typeof COMPUTE)[number];
/** SEND_F of an output to the next stage, SEND_B of an input's gradient to the one before; RECV_F and RECV_B on their other ends. */
export type CommunicationKind = (typeof COMMUNICATION)[number];
/** UNSHARD gathers a stage's parameters, RESHARD frees them, REDUCE_GRAD sums its gradients over data-parallel ranks. */
export type ShardingKind = (typeof SHARDING)[number];
/** What an action does. */
export type ActionKind = ComputeKind | CommunicationKind | ShardingKind;

/** One thing that a rank does in a pipeline, written `2F0`: stage, kind, micro-batch. */
export interface Action {
  /** The stage, from 0. */
  readonly stage: number;
  /** What is done. */
  readonly kind: ActionKind;
  /** Null for UNSHARD, RESHARD and REDUCE_GRAD. */
  readonly microBatch: number | null;
}
/** A forward or a backward, or a part of one. */
export interface ComputeAction extends Action {
  /** What is computed. */
  readonly kind: ComputeKind;
  /** The micro-batch, from 0. */
  readonly microBatch: number;
}
/** One end of a message between stages. */
export interface CommunicationAction extends Action {
  /** What is sent or received. */
  readonly kind: CommunicationKind;
  /** The micro-batch, from 0. */
  readonly microBatch: number;
}

export function isCompute(action: Action): action is ComputeAction {
  return action.kind.length === 1;
}

export function isCommunication(action: Action): action is CommunicationAction {
  return action.kind.startsWith('SEND') || action.kind.startsWith('RECV');
}

/** The stage at the other end of a SEND or RECV. */
export function peerStage({ stage, kind }: CommunicationAction): number {
  return kind === 'SEND_F' || kind === 'RECV_B' ? stage + 1 : stage - 1;
}

/** The action on the other end of a SEND or RECV: `1RECV_F3` of `0SEND_F3`. */
export function partnerOf(action: CommunicationAction): CommunicationAction {
  const kind = action.kind.replace(/^SEND|^RECV/, (word) => (word === 'SEND' ? 'RECV' : 'SEND')) as CommunicationKind;
  return { stage: peerStage(action), kind, microBatch: action.microBatch };
}

/** `2F0`, `1SEND_B3`, `0UNSHARD`. */
export function formatAction({ stage, kind, microBatch }: Action): string {
  return `${stage}${kind}${microBatch ?? ''}`;
}

// up to six digits, so that no text asks for tables of absurd size
const FORM = /^(\d{1,6})([A-Z]+(?:_[A-Z]+)?)(\d{1,6})?$/;

/**
 * Reads what `formatAction` writes; spaces around it are allowed.
 * @throws ValueError for anything else
 */
export function parseAction(text: string): Action {
  const [, stage, kind, microBatch] = FORM.exec(text.trim()) ?? [];
  if (/OVERLAP_F_B$/.test(text.trim()))
    throw new ValueError(`${describe(text)}: forwards that overlap with backwards are not supported; write them one after another`);
  const takesMicroBatch = [...COMPUTE, ...COMMUNICATION].includes(kind as never);
  if (!takesMicroBatch && !SHARDING.includes(kind as never)) {
    throw new ValueError(
      `${describe(text)} is not an action; actions are a stage, one of ${[...COMPUTE, ...COMMUNICATION, ...SHARDING].join(' ')}, and a micro-batch, as 2F0`,
    );
  }
  if (takesMicroBatch && microBatch === undefined) throw new ValueError(`${describe(text)}: ${kind} needs a micro-batch, as ${stage}${kind}0`);
  if (!takesMicroBatch && microBatch !== undefined) throw new ValueError(`${describe(text)}: ${kind} is of the whole stage and takes no micro-batch`);
  return { stage: Number(stage), kind: kind as ActionKind, microBatch: microBatch === undefined ? null : Number(microBatch) };
}
