// Datasets, the order of samples, batches, tokenizers, image transforms, and two sources of real data.
export { type Dataset, type IterableDataset, type StreamShare, type SampleTransform, MappedDataset, Subset, randomSplit } from './dataset.js';
export { TensorDataset, type Field, type FieldSample } from './tensor_dataset.js';
export { TokenDataset, TextDataset, writeTokenShard, encodeTokens, type TokenWindow, type TokenWindowOptions, type TokenShard, type TokenDType } from './token_dataset.js';
export { SequentialSampler, RandomSampler, DistributedSampler, BatchSampler, type Sampler, type BatchOrder, type Sized } from './sampler.js';
export { DataLoader } from './loader.js';
export type { DataLoaderOptions, DataLoaderState } from './loader_options.js';
export type { CollateFunction, Collated } from './collate.js';
export type { ModuleRef } from './module_ref.js';
export type { HostArray } from './host_array.js';
export { SampleRandom } from './sample_random.js';
export { Permutation } from './permutation.js';
export { CharTokenizer, ByteTokenizer, type Tokenizer, type CharTokenizerJSON } from './tokenizer.js';
export { mobyDick, digits, type DigitsDataset } from './sources.js';
export * as image from './image.js';
export * as transforms from './transforms.js';
export type { ImageArray, Interpolation } from './image.js';
export type { Transform, ImageSize } from './transforms.js';
