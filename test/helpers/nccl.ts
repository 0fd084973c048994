// How many ranks NCCL can have here: one a GPU, and two where it may put several on one (from 2.30 on, if the environment allows it).
import { cuda } from '../../lib/index.js';
import { native } from '../../lib/native.js';

const SHARES_GPUS = 23003;
const { gpus, libraries } = cuda.report();
const found = libraries.find(({ name }) => name === 'NCCL')?.path ?? '';

/** Whether NCCL puts two ranks on one GPU. */
export const sharesGpus: boolean = found !== '' && process.env['NCCL_MULTI_RANK_GPU_ENABLE'] === '1' && native.findNccl().version >= SHARES_GPUS;
/** 0: there is no NCCL, or no GPU. */
export const ncclRanks: number = found === '' ? 0 : gpus.length * (sharesGpus ? 2 : 1);
