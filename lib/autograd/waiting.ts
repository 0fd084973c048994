// Gradients that wait for their node, and who frees them: a run counts its own uses of every gradient storage, so a gradient is freed, or
// added to in place, exactly when nothing else can see it.
import { addInto } from '../ops/copy.js';
import { add } from '../ops/pointwise.js';
import { Scope, type Storage } from '../storage.js';
import type { Tensor } from '../tensor.js';
import type { Node } from './node.js';

export class WaitingGradients {
  /** What the rules make. */
  readonly scope = new Scope();
  private readonly byNode = new Map<Node, (Tensor | null)[]>();
  /** Storages that only this run can see, with the number of waiting gradients that use them. */
  private readonly uses = new Map<Storage, number>();

  /** `shared`: the backward itself is recorded, so nothing may be added to in place. */
  constructor(private readonly shared: boolean) {}

  /** The gradients of a node's outputs, if any came. */
  take(node: Node): (Tensor | null)[] | undefined {
    const grads = this.byNode.get(node);
    this.byNode.delete(node);
    return grads;
  }

  /** Adds a gradient to what waits for output `index` of a node. */
  put(node: Node, index: number, g: Tensor): void {
    const slots = this.byNode.get(node) ?? [];
    this.byNode.set(node, slots);
    const old = slots[index];
    if (!old) {
      slots[index] = g;
      this.uses.set(g.storage, (this.uses.get(g.storage) ?? 0) + 1);
    } else if (this.mayAddInto(old)) addInto(old, g);
    else {
      const sum = add(old, g);
      this.drop(old);
      slots[index] = sum;
      this.uses.set(sum.storage, 1);
    }
  }

  /** One that was taken is needed no more. */
  drop(g: Tensor): void {
    const left = (this.uses.get(g.storage) ?? 1) - 1;
    if (left > 0) this.uses.set(g.storage, left);
    else this.uses.delete(g.storage);
  }

  owns(g: Tensor): boolean {
    return g.storage.scope === this.scope;
  }

  /** No one else can see it, and it fills its storage: it may become a .grad without a copy. */
  exclusive(g: Tensor): boolean {
    return this.owns(g) && !this.uses.has(g.storage) && g.isContiguous && g.storage.bytes === g.nbytes;
  }

  /** What the last rule made and nothing waiting uses goes: to the scope `keeper`, or away. */
  collect(outer: Scope | null, keeper: Scope | null = null): void {
    for (const s of this.scope.take()) {
      if (this.uses.has(s)) this.scope.add(s);
      else if (keeper) keeper.add(s);
      else s.release(outer);
    }
  }

  private mayAddInto(g: Tensor): boolean {
    return !this.shared && this.owns(g) && this.uses.get(g.storage) === 1 && g.isContiguous && g.storage.bytes === g.nbytes;
  }
}
