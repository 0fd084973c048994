// A dataset of whole_worker.ts that worker threads make too.
import { data } from '../lib/index.js';

/** Digits as an augmentation sees them: shifted by up to two pixels, mirrored half of the time, normalised. */
export class AugmentedDigits {
  private readonly digits = data.digits({ test: 0 }).train;
  private readonly augment = data.transforms.compose([
    data.transforms.randomCrop(28, { padding: 2 }),
    data.transforms.randomHorizontalFlip(),
    data.transforms.normalize([0.1307], [0.3081]),
  ]);
  get length(): number {
    return this.digits.length;
  }
  get(index: number, random: data.SampleRandom): unknown {
    const { images, labels } = this.digits.get(index);
    return { images: this.augment(images as data.ImageArray, random), labels };
  }
}
