/// <reference lib="esnext.disposable" preserve="true" />
/**
 * Training on several ranks: jobs, collectives, data, tensor and pipeline parallelism, sharded checkpoints:
 * `import * as dist from 'shardgrad/distributed'`.
 * @module shardgrad/distributed
 */
export { placementOf, withPlacements } from './activation_placements.js';
export { type LoadOptions, loadCheckpoint } from './checkpoint/load.js';
export { type SaveOptions, type Saving, saveCheckpoint, saveCheckpointAsync } from './checkpoint/save.js';
export { loadTensors } from './checkpoint/tensors.js';
export { warmUpSave } from './checkpoint/warm_up.js';
export { type CheckpointBudget, type CheckpointChoice, type CheckpointLevel, checkpointWithin } from './checkpoint_within.js';
export type { CombinationOptions } from './combinations.js';
export { countValid } from './count_valid.js';
export { type DataParallelOptions, DistributedDataParallel, reduceGradients } from './ddp.js';
export { type DeviceMesh, initDeviceMesh, MESH_AXES, type MeshAxis, type MeshOptions, type MeshSizes } from './device_mesh.js';
export { type DistributeOptions, distributeTensor, fullTensor, layoutOf, type RedistributeOptions, redistribute } from './distribute.js';
export type { Ensemble } from './ensemble.js';
export {
  detectLaunch,
  type Environment,
  type ExplicitLaunch,
  type LauncherName,
  type NodeLaunch,
  type RankCount,
  type RankLaunch,
} from './environment.js';
export { estimateMemory, type FullyShardPlan, type MemoryPlan, type Stepper, type WrapperOptions } from './estimate_memory.js';
export { broadcastState } from './follow.js';
export { type FullyShardOptions, fullyShard, type MixedPrecisionPolicy, setRequiresGradientSync } from './fully_shard.js';
export type { CallOptions, GroupOptions, ReduceOptions } from './group_options.js';
export { AdaptiveTopK, type AdaptiveTopKOptions } from './hooks/adaptive_top_k.js';
export { bfloat16Compression, float16Compression } from './hooks/compress.js';
export { FeedbackHook, type FeedbackState } from './hooks/feedback.js';
export type { CommunicationHook, GradientBucket, NamedGradient, ReductionContext } from './hooks/hook.js';
export { oneRoundingReduction } from './hooks/one_rounding.js';
export { PowerSGD, type PowerSGDOptions } from './hooks/power_sgd.js';
export { TopK, type TopKOptions } from './hooks/top_k.js';
export { type InitOptions, init, type Job } from './init.js';
export type { JoinOptions } from './join.js';
export type { Layout, Placements, Range } from './layout.js';
export { type MaterializeOptions, materialize } from './materialize.js';
export type { MemoryEstimate, MemoryParts } from './memory_estimate.js';
export {
  type Action,
  type ActionKind,
  type CommunicationAction,
  type CommunicationKind,
  type ComputeAction,
  type ComputeKind,
  formatAction,
  parseAction,
  type ShardingKind,
} from './pipeline/action.js';
export type { StageBytes } from './pipeline/activation_memory.js';
export { type LowerOptions, lowerSchedule } from './pipeline/lower.js';
export { makeSchedule, SCHEDULE_NAMES, type ScheduleName } from './pipeline/make_schedule.js';
export { type LayerCosts, type MeasureOptions, measureLayers } from './pipeline/measure_layers.js';
export type { Batch, GivenMicroBatch } from './pipeline/micro_batches.js';
export { Pipeline, type PipelineOptions, type PipelineResult } from './pipeline/pipeline.js';
export { formatSchedule, forwardsOf, parseSchedule, readSchedule, Schedule, type Step, writeSchedule } from './pipeline/schedule.js';
export { type RankTimes, type ScheduleCosts, type Simulation, simulateSchedule, type TimedAction } from './pipeline/simulate_schedule.js';
export type { ScheduleSizes } from './pipeline/sizes.js';
export type { LayerWeights, Split } from './pipeline/split_layers.js';
export type { MetricFunction } from './pipeline/tally.js';
export { validateSchedule } from './pipeline/validate.js';
export { type Block, Partial, type Placement, Replicate, Shard } from './placement.js';
export { ProcessGroup } from './process_group.js';
export type { PremulSum, ReduceOp } from './reduce_op.js';
export { meet, type Rendezvous } from './rendezvous.js';
export { type SimulatedRank, type SimulateOptions, simulate } from './simulate.js';
export { Store, type StoreCallOptions, type StoreOptions, type StoreValue, type Swap } from './store.js';
export { StoreServer, type StoreServerOptions } from './store_server.js';
export { SyncBatchNorm, type SyncBatchNormOptions } from './sync_batch_norm.js';
export {
  ColumnParallelLinear,
  type ColumnParallelOptions,
  gateUpBlocks,
  qkvBlocks,
} from './tensor_parallel/column_linear.js';
export { type GPTPlanOptions, gptPlan } from './tensor_parallel/gpt_plan.js';
export { parallelize } from './tensor_parallel/parallelize.js';
export type {
  AttentionStyle,
  BlockOnSequenceStyle,
  ColumnStyle,
  FeaturesStyle,
  GatherSequenceStyle,
  ParallelPlan,
  ParallelStyle,
  RowStyle,
  ScatterSequenceStyle,
  SequenceStyle,
  VocabEmbeddingStyle,
  VocabHeadStyle,
} from './tensor_parallel/plan.js';
export {
  copyToTensorParallel,
  gatherFromSequence,
  reduceFromTensorParallel,
  reduceScatterToSequence,
  scatterToSequence,
} from './tensor_parallel/regions.js';
export { RowParallelLinear, type RowParallelOptions } from './tensor_parallel/row_linear.js';
export { withSequenceLength } from './tensor_parallel/sequence_length.js';
export type { SourceOptions } from './tensor_parallel/shard_parameter.js';
export { type TransformerPlanOptions, transformerPlan } from './tensor_parallel/transformer_plan.js';
export { type VocabParallelLossOptions, vocabParallelCrossEntropy } from './tensor_parallel/vocab_cross_entropy.js';
export { VocabParallelEmbedding, type VocabParallelOptions } from './tensor_parallel/vocab_embedding.js';
export { VocabParallelHead } from './tensor_parallel/vocab_head.js';
export type { Backend, Transport } from './transport.js';
export { waitedForCollectives } from './waited.js';
export type { Work } from './work.js';
export type { ReachOptions, TransportName } from './world.js';
export { ZeroRedundancyOptimizer, type ZeroRedundancyOptions } from './zero_redundancy_optimizer.js';
