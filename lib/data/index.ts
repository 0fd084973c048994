// Datasets, the order of samples, batches, tokenizers, image transforms, and two sources of real data.

export type { Collated, CollateFunction } from './collate.js';
export { type Dataset, type IterableDataset, MappedDataset, randomSplit, type SampleTransform, type StreamShare, Subset } from './dataset.js';
export type { HostArray } from './host_array.js';
export type { ImageArray, Interpolation } from './image.js';
/** Functions of images as arrays of the host: resize, crop, flip, rotate, normalize. */
export * as image from './image.js';
export { ChainDataset, ConcatDataset } from './joined.js';
export { DataLoader } from './loader.js';
export type { DataLoaderOptions, DataLoaderState, StreamState } from './loader_options.js';
export type { ModuleRef } from './module_ref.js';
export { Permutation } from './permutation.js';
export { SubsetRandomSampler, type WeightedOptions, WeightedRandomSampler } from './random_samplers.js';
export { SampleRandom } from './sample_random.js';
export {
  type BatchOrder,
  BatchSampler,
  DistributedSampler,
  type HasLength,
  RandomSampler,
  type RankOptions,
  type Sampler,
  SequentialSampler,
  type Sized,
} from './sampler.js';
export { type Digits, type DigitsDataset, type DigitsFields, digits, mobyDick, type SplitText } from './sources.js';
export { type Field, type FieldSample, TensorDataset } from './tensor_dataset.js';
export {
  encodeTokens,
  TextDataset,
  type TokenArray,
  TokenDataset,
  type TokenDType,
  type TokenShard,
  type TokenWindow,
  type TokenWindowOptions,
  writeTokenShard,
} from './token_dataset.js';
export { ByteTokenizer, CharTokenizer, type CharTokenizerJSON, type Tokenizer } from './tokenizer.js';
export type { ImageSize, Transform } from './transforms.js';
/** Sample transforms for datasets: functions of an image and a source of random numbers. */
export * as transforms from './transforms.js';
