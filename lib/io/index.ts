// Files: tensors in safetensors and .npy, checkpoints of training runs.
export { saveCheckpoint, loadCheckpoint, latestCheckpoint, type CheckpointState, type Stateful } from './checkpoint.js';
export { saveSafetensors, type LoadOptions, type NamedTensors, type SafetensorsReader, type TensorInfo } from './safetensors.js';
export { openSafetensors, loadSafetensors, saveShardedSafetensors } from './sharded.js';
export { loadNpy, saveNpy } from './npy.js';
export type { FileSystem } from './files.js';
