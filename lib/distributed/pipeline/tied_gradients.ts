// Parameters that stages of several ranks have, such as an embedding that is also the head: equal when training begins, and equal after every step,
// since each rank adds up the gradients of all in the same order. Messages between those ranks are all it takes.
import { noGrad } from '../../autograd/modes.js';
import { empty } from '../../create.js';
import { copy_ } from '../../ops/copy.js';
import { add } from '../../ops/pointwise.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';
import { reducible } from '../reducible.js';
import type { TiedParameter } from './stages.js';

/** The first rank's values, to the others. */
export function shareValues(tied: readonly TiedParameter[], group: ProcessGroup): void {
  noGrad(() => {
    for (const { name, parameter, ranks } of tied) {
      const [first, ...others] = ranks as [number, ...number[]];
      const label = `of the values of ${name}`;
      if (group.rank !== first) group.recv(parameter.detach(), first, { label }).wait();
      else for (const work of group.coalesce(() => others.map((dst) => group.send(parameter.detach(), dst, { label })))) work.wait();
    }
  });
}

/** Every rank's gradient becomes the sum of all, added up in the order of the ranks. */
export function shareGradients(tied: readonly TiedParameter[], group: ProcessGroup): void {
  noGrad(() => {
    for (const { name, parameter, ranks } of tied) {
      if (!parameter.requiresGrad) continue;
      const own = reducible(parameter);
      const others = ranks.filter((r) => r !== group.rank);
      const label = `of the gradient of ${name}`;
      const received = new Map<number, Tensor>([[group.rank, own]]);
      const works = group.coalesce(() =>
        others.flatMap((r) => {
          const theirs = empty(own.shape, { dtype: own.dtype, device: group.device });
          received.set(r, theirs);
          return [group.send(own.detach(), r, { label }), group.recv(theirs, r, { label })];
        }),
      );
      for (const work of works) work.wait();
      const sum = ranks.map((r) => received.get(r)!).reduce((a, b) => add(a, b));
      copy_(own, sum);
      for (const t of [sum, ...others.map((r) => received.get(r)!)]) t.dispose();
      parameter.grad = own;
    }
  });
}
