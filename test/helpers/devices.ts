// Every device that this machine offers: the CPU always, a GPU where one answers.
import { zeros } from '../../lib/index.js';

function answers(device: string): boolean {
  try {
    zeros([1], { device }).dispose();
    return true;
  } catch {
    return false;
  }
}

export const devices: readonly string[] = ['cpu', 'cuda:0'].filter((d, i) => i === 0 || answers(d));
