// What a worker thread makes this package's own datasets with: the exports that a reference to OWN_MODULE names.
export { mappedInWorker, subsetInWorker } from './dataset.js';
export { chainInWorker, concatInWorker } from './joined.js';
export { TensorDataset } from './tensor_dataset.js';
export { TokenDataset } from './token_dataset.js';
