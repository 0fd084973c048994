// Whether a plan can run: everything is there once, comes after what it needs, and no ranks wait for each other in a ring.
import { ValueError } from '../../errors.js';
import { type Action, type CommunicationAction, type ComputeAction, formatAction, isCommunication, isCompute, partnerOf, peerStage } from './action.js';
import { inputOf, Places, receiveOf } from './dependencies.js';
import { checkProgress } from './rendezvous.js';
import type { Schedule } from './schedule.js';
import { checkSharding } from './validate_sharding.js';

/**
 * Looks through a plan, with or without SENDs and RECVs, and names what is wrong in one sentence. A plan that passes comes to its end
 * however slow any rank is, even where a send waits for its receive and every rank does one step after another.
 * @throws ValueError for an action that is missing, there twice, on a wrong rank or before what it needs; for messages that two ranks
 * send and receive in different orders; and for ranks that would wait for each other, with the actions that they wait in
 */
export function validateSchedule(schedule: Schedule): void {
  const places = new Places(schedule);
  checkRanks(schedule);
  checkComplete(schedule, places);
  checkOrder(schedule, places);
  if (schedule.communicates) checkMessages(schedule, places);
  checkSharding(schedule);
  checkProgress(schedule, places);
}

function checkRanks(schedule: Schedule): void {
  const { name, stages, microBatches } = schedule;
  for (const [rank, actions] of schedule.actions.entries()) {
    for (const action of actions) {
      const text = formatAction(action);
      if (action.stage >= stages) throw new ValueError(`schedule ${name}: rank ${rank} has ${text}, but nothing computes stage ${action.stage}`);
      if (action.microBatch !== null && action.microBatch >= microBatches) {
        throw new ValueError(`schedule ${name}: rank ${rank} has ${text}, but nothing computes micro-batch ${action.microBatch}`);
      }
      const owner = schedule.rankOf(action.stage);
      if (owner !== rank) throw new ValueError(`schedule ${name}: ${text} is on rank ${rank}, but its stage is on rank ${owner}`);
      if (!isCommunication(action)) continue;
      const peer = peerStage(action);
      if (peer < 0 || peer >= stages) throw new ValueError(`schedule ${name}: rank ${rank} has ${text}, but there is no stage ${peer}`);
      if (schedule.rankOf(peer) === rank) {
        throw new ValueError(`schedule ${name}: rank ${rank} has ${text}, but stage ${peer} is on the same rank, where nothing is sent`);
      }
    }
  }
}

function checkComplete(schedule: Schedule, places: Places): void {
  for (let stage = 0; stage < schedule.stages; stage++) {
    for (let microBatch = 0; microBatch < schedule.microBatches; microBatch++) {
      const missing = (kind: 'F' | 'B' | 'W' | 'I', also = ''): void => {
        throw new ValueError(`schedule ${schedule.name}: rank ${schedule.rankOf(stage)} has no ${formatAction({ stage, kind, microBatch })}${also}`);
      };
      if (!places.get({ stage, kind: 'F', microBatch })) missing('F');
      const backward = places.get({ stage, kind: 'B', microBatch })?.action;
      const weights = places.get({ stage, kind: 'W', microBatch });
      if (!schedule.trains) {
        if (backward || weights)
          throw new ValueError(`schedule ${schedule.name} has ${formatAction(backward ?? weights!.action)}, but is one of forwards alone`);
        continue;
      }
      if (!backward && weights) missing('I', `, though it has ${formatAction(weights.action)}`);
      if (!backward) missing('B', ', nor an I and a W instead');
      if (backward!.kind === 'I' && !weights) missing('W', `, which ${formatAction(backward!)} leaves to do`);
      if (backward!.kind === 'B' && weights) {
        throw new ValueError(`schedule ${schedule.name} has both ${formatAction(backward!)} and ${formatAction(weights.action)}, which is a part of it`);
      }
    }
  }
}

/** Actions of the same rank come after what they need. */
function checkOrder(schedule: Schedule, places: Places): void {
  for (const [rank, actions] of schedule.actions.entries()) {
    for (const [index, action] of actions.entries()) {
      for (const needed of neededOnRank(schedule, action)) {
        const place = places.get(needed);
        if (!place)
          throw new ValueError(`schedule ${schedule.name}: rank ${rank} has ${formatAction(action)}, but no ${formatAction(needed)} brings its input`);
        if (place.index > index)
          throw new ValueError(`schedule ${schedule.name}: rank ${rank} has ${formatAction(action)} before ${formatAction(place.action)}, which it needs`);
      }
    }
  }
}

function neededOnRank(schedule: Schedule, action: Action): Action[] {
  if (isCompute(action)) {
    const own: ComputeAction[] = action.kind === 'B' || action.kind === 'I' ? [{ ...action, kind: 'F' }] : [];
    const receive = receiveOf(schedule, action);
    if (receive) return schedule.communicates ? [...own, receive] : own;
    return [...own, inputOf(schedule, action)].filter((needed) => needed !== null);
  }
  return isCommunication(action) && action.kind.startsWith('SEND') ? [inputOf(schedule, action)!] : [];
}

/** Every message has both of its ends, and two ranks have the messages between them in the same order. */
function checkMessages(schedule: Schedule, places: Places): void {
  const streams = new Map<string, CommunicationAction[]>();
  for (const [rank, actions] of schedule.actions.entries()) {
    for (const action of actions) {
      if (!isCommunication(action)) continue;
      const partner = partnerOf(action);
      const peer = schedule.rankOf(partner.stage);
      if (!places.get(partner))
        throw new ValueError(`schedule ${schedule.name}: rank ${rank} has ${formatAction(action)}, but rank ${peer} has no ${formatAction(partner)}`);
      const key = action.kind.startsWith('SEND') ? `sends ${rank} ${peer}` : `receives ${peer} ${rank}`;
      const stream = streams.get(key);
      if (stream) stream.push(action);
      else streams.set(key, [action]);
    }
  }
  for (const [key, sends] of streams) {
    const [what, from, to] = key.split(' ');
    if (what !== 'sends') continue;
    const receives = streams.get(`receives ${from} ${to}`)!;
    const i = sends.findIndex((send, j) => formatAction(partnerOf(send)) !== formatAction(receives[j]!));
    if (i !== -1) {
      throw new ValueError(
        `schedule ${schedule.name}: message ${i + 1} from rank ${from} to rank ${to} is ${formatAction(sends[i]!)} where it is sent, but ${formatAction(receives[i]!)} where it is received`,
      );
    }
  }
}
