// nn.MultiheadAttention with its heads spread over the ranks. The module stays what it is, hooks and names included: it is told which heads are its
// own, and its projections become parallel ones.
import { ShapeError } from '../../errors.js';
import type { MultiheadAttention } from '../../nn/attention.js';
import type { Linear } from '../../nn/linear.js';
import type { DeviceMesh } from '../device_mesh.js';
import { cut, lengthOf } from '../layout.js';
import { type Block, Shard } from '../placement.js';
import { qkvBlocks } from './column_linear.js';
import { sharedRows } from './partial_gradients.js';
import { columnParallel } from './products.js';
import { copyToTensorParallel } from './regions.js';
import { RowParallelLinear } from './row_linear.js';
import { pieceOf } from './sequence_length.js';
import { type SourceOptions, shardParameter } from './shard_parameter.js';

export interface ShareHeadsOptions extends SourceOptions {
  readonly mesh: DeviceMesh;
  readonly sequenceParallel?: boolean;
}

/** @throws ShapeError or ValueError where a rank would have no head, before anything is changed */
export function shareHeads(module: MultiheadAttention, path: string, { mesh, src, sequenceParallel = false }: ShareHeadsOptions): void {
  const where = 'parallelize';
  const [group, ranks, rank] = [mesh.group('tp'), mesh.size('tp'), mesh.rank('tp')];
  const blocks = blocksOf(module, mesh, path);
  const rows = [...blocks.map((block) => Shard(0, { blocks: [block] })), Shard(0, { blocks })];
  const { in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias } = module;
  [q_proj_weight, k_proj_weight, v_proj_weight, in_proj_weight].forEach((weight, part) => {
    if (weight) shardParameter(weight, mesh, { tp: rows[part] }, where, { src });
  });
  if (in_proj_bias) shardParameter(in_proj_bias, mesh, { tp: rows[3] }, where, { src });
  const out = RowParallelLinear.from(module.out_proj, { mesh, blocks: blocks.slice(0, 1), sequenceParallel, src });
  module.out_proj = out as unknown as Linear;
  const sums = rows.map((shard) => sharedRows(shard, group, path));
  const pieces = blocks.map((block, part) => cut([{ start: 0, length: block.size }], rows[part]!, ranks, rank));
  const { headDim, numHeads } = module;
  const [heads, keyHeads, first] = [lengthOf(pieces[0]!) / headDim, lengthOf(pieces[1]!) / headDim, pieces[0]![0]!.start / headDim];
  module.shared = {
    heads,
    keyHeads,
    first,
    project: (x, weight, bias, part) =>
      columnParallel(x, weight, bias, { group, sequenceParallel, name: module.label, shared: sums[part ?? 3] ?? null, even: true }),
    enter: (mask) => copyToTensorParallel(mask, group, `of the gradient of a mask of ${module.label}`),
  };
  module.dropout.inner = (shape) => ({ globalShape: shape.with(1, numHeads), offset: shape.map((_, dim) => (dim === 1 ? first : 0)) });
}

/** Queries, keys and values by heads, so that each key head is where its queries are. */
function blocksOf({ numHeads: heads, numKeyValueHeads: keyValueHeads, headDim }: MultiheadAttention, mesh: DeviceMesh, path: string): Block[] {
  const ranks = mesh.size('tp');
  if (keyValueHeads < ranks && keyValueHeads < heads) return qkvBlocks(mesh, { heads, keyValueHeads, headDim });
  if (pieceOf(keyValueHeads, ranks, ranks - 1).length === 0)
    throw new ShapeError(`parallelize: ${keyValueHeads} heads of "${path}" leave one of ${ranks} ranks without any`);
  const keys = { size: keyValueHeads * headDim, unit: headDim };
  return [{ size: heads * headDim, unit: (heads / keyValueHeads) * headDim }, keys, keys];
}
