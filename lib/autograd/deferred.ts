// What a backward in two parts leaves for its second one.
import { Scope } from '../storage.js';
import type { Tensor } from '../tensor.js';
import type { Edge, Node } from './node.js';
import type { GradMaker } from './rules/types.js';

export class Deferred {
  /** Nodes that lead to the inputs. */
  readonly path: Set<Node> = new Set();
  /** Gradients on the way to other leaves alone that need not be computed yet, in order. */
  readonly products: { readonly node: Node; readonly index: number; readonly make: GradMaker }[] = [];
  /** Nodes off the path. */
  readonly nodes: Node[] = [];
  /** What the products may need of what the rules made. */
  readonly kept: Scope = new Scope();

  /** `inputs`: the leaves that the first part is for. */
  constructor(private readonly inputs: ReadonlySet<Tensor>) {}

  findPath(nodes: readonly Node[]): void {
    for (const node of [...nodes].sort((a, b) => a.id - b.id)) if (node.edges.some((edge) => this.leadsTo(edge))) this.path.add(node);
  }
  leadsTo(edge: Edge): boolean {
    return edge !== null && ('leaf' in edge ? this.inputs.has(edge.leaf) : this.path.has(edge.node));
  }
}
