// Files: tensors in safetensors and .npy, checkpoints of training runs.
export { type CheckpointState, latestCheckpoint, loadCheckpoint, type Stateful, saveCheckpoint } from './checkpoint.js';
export type { FileHandle, FileStatus, FileSystem } from './file_system.js';
export { loadNpy, saveNpy } from './npy.js';
export { type LoadOptions, type NamedTensors, type SafetensorsReader, saveSafetensors, type TensorInfo } from './safetensors.js';
export { loadSafetensors, openSafetensors, saveShardedSafetensors } from './sharded.js';
