// Image transforms against their definitions, and against values that PyTorch gives for the same input.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { data, ShapeError, ValueError } from '../lib/index.js';

const { image, transforms } = data;
const floats = (shape: number[], f: (i: number) => number): data.ImageArray => ({
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => f(i)),
  shape,
});
const plane = (h: number, w: number): data.ImageArray => floats([1, h, w], (i) => i);
const rows = (x: data.ImageArray): number[][] => {
  const [, h, w] = x.shape as [number, number, number];
  return Array.from({ length: h }, (_, y) => Array.from(x.data.subarray(y * w, (y + 1) * w)));
};
const stream = (...key: number[]): data.SampleRandom => new data.SampleRandom(...key);
const anyImage = fc
  .record({ c: fc.integer({ min: 1, max: 3 }), h: fc.integer({ min: 1, max: 9 }), w: fc.integer({ min: 1, max: 9 }), bytes: fc.boolean() })
  .map(({ c, h, w, bytes }): data.ImageArray => {
    const values = Array.from({ length: c * h * w }, (_, i) => (i * 37) % 256);
    return { data: bytes ? Uint8Array.from(values) : Float32Array.from(values), shape: [c, h, w] };
  });

describe('geometry', () => {
  test('crop reaches over the edges', () => {
    expect(rows(image.crop(plane(3, 3), 1, 1, 3, 3, 9))).toEqual([
      [4, 5, 9],
      [7, 8, 9],
      [9, 9, 9],
    ]);
    expect(rows(image.crop(plane(3, 3), -1, -2, 2, 3))).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
    expect(rows(image.crop(plane(3, 3), 5, 5, 1, 1, 7))).toEqual([[7]]);
    expect(rows(image.centerCrop(plane(4, 4), 2))).toEqual([
      [5, 6],
      [9, 10],
    ]);
    expect(rows(image.pad(plane(1, 1), 1, 4))).toEqual([
      [4, 4, 4],
      [4, 0, 4],
      [4, 4, 4],
    ]);
  });

  test('flips', () => {
    expect(rows(image.flipHorizontal(plane(2, 3)))).toEqual([
      [2, 1, 0],
      [5, 4, 3],
    ]);
    expect(rows(image.flipVertical(plane(2, 3)))).toEqual([
      [3, 4, 5],
      [0, 1, 2],
    ]);
    fc.assert(
      fc.property(anyImage, (x) => {
        expect(image.flipVertical(image.flipHorizontal(image.flipHorizontal(image.flipVertical(x))))).toEqual(x);
      }),
    );
  });

  test('rotation is counter-clockwise; quarter turns are exact', () => {
    expect(rows(image.rotate(plane(3, 3), 90, { interpolation: 'nearest' }))).toEqual([
      [2, 5, 8],
      [1, 4, 7],
      [0, 3, 6],
    ]);
    fc.assert(
      fc.property(anyImage, (x) => {
        expect(image.rotate(x, 0)).toEqual(x);
        const half = image.rotate(x, 180, { interpolation: 'nearest' });
        expect(half).toEqual(image.flipVertical(image.flipHorizontal(x)));
      }),
    );
  });

  test('rotation and resizing as PyTorch computes them', () => {
    const near = (actual: data.ImageArray, expected: number[][]): void => {
      const differences = rows(actual).flatMap((row, y) => row.map((value, x) => Math.abs(value - expected[y]![x]!)));
      expect(Math.max(...differences)).toBeLessThan(1e-4);
    };
    near(image.resize(plane(2, 2), 3, 3), [
      [0, 0.5, 1],
      [1, 1.5, 2],
      [2, 2.5, 3],
    ]);
    near(image.resize(plane(4, 4), 2, 3), [
      [2.1666667, 3.5, 4.8333335],
      [10.166666, 11.5, 12.833333],
    ]);
    near(image.resize(plane(3, 3), 2, 5, { interpolation: 'nearest' }), [
      [0, 0, 1, 1, 2],
      [3, 3, 4, 4, 5],
    ]);
    near(
      image.rotate(
        floats([1, 4, 4], (i) => i + 1),
        30,
      ),
      [
        [0.8798098, 2.6788478, 5.4868608, 3.5192392],
        [2.7189109, 5.5849366, 8.4509621, 10.7153921],
        [5.4509625, 8.5490379, 11.4150639, 14.2810888],
        [4.1471157, 11.5131397, 13.4875069, 6.7865453],
      ],
    );
    near(
      image.rotate(
        floats([1, 3, 5], (i) => i + 1),
        -50,
      ),
      [
        [9.9072599, 7.2074518, 4.0200176, 1.7006383, 0],
        [5.4813113, 11.1874342, 8, 4.8125653, 2.0052683],
        [0, 7.7580481, 11.9799824, 8.7925472, 5.2668223],
      ],
    );
  });

  test('bytes are rounded, not truncated or wrapped', () => {
    const x: data.ImageArray = { data: Uint8Array.of(0, 255), shape: [1, 1, 2] };
    expect(Array.from(image.resize(x, 1, 4).data)).toEqual([0, 64, 191, 255]);
    expect(Array.from(image.toFloat(x).data)).toEqual([0, 1]);
  });

  test('normalize, by channel', () => {
    const x = floats([2, 1, 2], (i) => i);
    expect(Array.from(image.normalize(x, [1, 2], [2, 4]).data)).toEqual([-0.5, 0, 0, 0.25]);
    expect(() => image.normalize(x, [1], [1])).toThrow('normalize: the image has 2 channels, mean has 1 and std 1');
    expect(() => image.normalize(x, [1, 1], [1, 0])).toThrow(ValueError);
  });

  test('what is not an image', () => {
    expect(() => image.flipVertical({ data: new Float32Array(4), shape: [2, 2] })).toThrow('flipVertical: an image has the shape [C,H,W], got [2,2]');
    expect(() => image.crop({ data: new Float32Array(5), shape: [1, 2, 2] }, 0, 0, 1, 1)).toThrow(ShapeError);
    expect(() => image.rotate(3 as never, 5)).toThrow(ValueError);
    expect(() => image.resize(plane(2, 2), 0, 3)).toThrow('resize: height must be a whole number from 1, got 0');
    expect(() => image.rotate(plane(2, 2), Number.NaN)).toThrow(ValueError);
  });
});

describe('random transforms', () => {
  const pipeline = transforms.compose([
    transforms.randomCrop(6, { padding: 2 }),
    transforms.randomHorizontalFlip(),
    transforms.randomVerticalFlip(0.3),
    transforms.randomRotation(15),
    transforms.randomScale([0.8, 1.2]),
    transforms.randomResizedCrop([5, 7]),
    transforms.toFloat(),
  ]);

  test('depend on the stream alone and give the size asked for', () => {
    fc.assert(
      fc.property(anyImage, fc.nat(), (x, seed) => {
        const y = pipeline(x, stream(seed));
        expect([y.shape, y.data instanceof Float32Array, y.data.every((v) => v >= -1e-4 && v <= 255.001)]).toEqual([[x.shape[0], 5, 7], true, true]);
        expect(pipeline(x, stream(seed))).toEqual(y);
      }),
    );
  });

  test('draw from the whole of their range', () => {
    const x = plane(3, 3);
    const corners = new Set(Array.from({ length: 300 }, (_, i) => transforms.randomCrop(2)(x, stream(i)).data[0]));
    expect(corners).toEqual(new Set([0, 1, 3, 4]));
    const flipped = Array.from({ length: 1000 }, (_, i) => transforms.randomHorizontalFlip(0.25)(x, stream(i)) !== x).filter(Boolean).length;
    expect(Math.abs(flipped - 250)).toBeLessThan(60);
    expect(transforms.randomCrop(5)(x, stream(1)).shape).toEqual([1, 5, 5]);
  });

  test('wrong arguments are found when the transform is made', () => {
    expect(() => transforms.randomCrop(0)).toThrow('randomCrop: the height must be a whole number from 1, got 0');
    expect(() => transforms.randomHorizontalFlip(2)).toThrow(ValueError);
    expect(() => transforms.randomScale([2, 1])).toThrow(ValueError);
    expect(() => transforms.compose([3 as never])).toThrow('compose: transform 0 is 3, expected a function');
    expect(() => transforms.resize([1] as never)).toThrow(ValueError);
  });

  test('the sample’s random stream is uniform and reproducible', () => {
    const r = stream(1, 2, 3);
    const draws = Array.from({ length: 20_000 }, () => r.next());
    const mean = draws.reduce((a, b) => a + b) / draws.length;
    expect([Math.abs(mean - 0.5) < 0.01, Math.min(...draws) >= 0, Math.max(...draws) < 1]).toEqual([true, true, true]);
    const counts = new Array(10).fill(0);
    for (let i = 0; i < 20_000; i++) counts[r.int(10)]++;
    expect(counts.reduce((sum, n) => sum + (n - 2000) ** 2 / 2000, 0)).toBeLessThan(30);
    expect(stream(1, 2).next()).not.toBe(stream(2, 1).next());
    expect(stream(2 ** 40).next()).not.toBe(stream(2 ** 41).next());
  });
});
