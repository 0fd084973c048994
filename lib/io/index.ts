// Files: tensors in safetensors and .npy, checkpoints of training runs.
export { type CheckpointState, latestCheckpoint, loadCheckpoint, type Stateful, saveCheckpoint } from './checkpoint.js';
export type { FileHandle, FileRead, FileStatus, FileSystem, FileWritten } from './file_system.js';
export { loadModel } from './load_model.js';
export { loadNpy, saveNpy } from './npy.js';
export { type NamedTensors, saveSafetensors } from './safetensors.js';
export type { TensorInfo } from './safetensors_header.js';
export type { LoadOptions, SafetensorsReader } from './safetensors_reader.js';
export { loadSafetensors, openSafetensors, saveShardedSafetensors } from './sharded.js';
