// tfjs on WebAssembly as a side of bench/kernels.ts: float32 of the kinds that it has; { error } for the others, which costs its column.
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';

setWasmPaths(fileURLToPath(new URL('./node_modules/@tensorflow/tfjs-backend-wasm/dist/', import.meta.url)));
await tf.setBackend('wasm');

const randn = (...shape) => tf.keep(tf.randomNormal(shape));
const kinds = {
  copy: ({ n }) => {
    const x = randn(n);
    return () => tf.add(x, 0); // its clone is a view
  },
  add: ({ n }) => {
    const [x, y] = [randn(n), randn(n)];
    return () => tf.add(x, y);
  },
  exp: ({ n }) => {
    const x = randn(n);
    return () => tf.exp(x);
  },
  sumAll: ({ n }) => {
    const x = randn(n);
    return () => tf.sum(x);
  },
  addRow: ({ rows, cols }) => {
    const [x, y] = [randn(rows, cols), randn(cols)];
    return () => tf.add(x, y);
  },
  sumRows: ({ rows, cols }) => {
    const x = randn(rows, cols);
    return () => tf.sum(x, 1);
  },
  sumColumns: ({ rows, cols }) => {
    const x = randn(rows, cols);
    return () => tf.sum(x, 0);
  },
  transpose: ({ rows, cols }) => {
    const x = randn(rows, cols);
    return () => tf.transpose(x);
  },
  softmax: ({ rows, cols }) => {
    const x = randn(rows, cols);
    return () => tf.softmax(x);
  },
  matmul: ({ m, k, n }) => {
    const [a, b] = [randn(m, k), randn(k, n)];
    return () => tf.matMul(a, b);
  },
  linear: ({ m, k, n }) => {
    const [x, w] = [randn(m, k), randn(n, k)];
    return () => tf.matMul(x, w, false, true);
  },
};

const one = () => tf.keep(tf.tensor1d([1]));
const calls = {
  'a.add(b)': () => {
    const [a, b] = [one(), one()];
    return () => tf.add(a, b);
  },
  'a.exp()': () => {
    const a = one();
    return () => tf.exp(a);
  },
  'a.sum()': () => {
    const a = one();
    return () => tf.sum(a);
  },
  'a.softmax(-1)': () => {
    const a = one();
    return () => tf.softmax(a);
  },
  'a.add(b), read at once': () => {
    const [a, b] = [one(), one()];
    return () => tf.add(a, b).dataSync();
  },
};

/** Milliseconds of one of `count`; WebAssembly has run a kernel when its call returns. */
function time(call, count) {
  const start = performance.now();
  for (let i = 0; i < count; i++) tf.tidy(() => void call());
  return (performance.now() - start) / count;
}

let made = null;
function answer({ forget, host, kind, dtype, sizes, runMs }) {
  if (forget) {
    made = null;
    tf.disposeVariables();
    return {};
  }
  if (host) {
    if (!calls[host]) return { error: `no ${host}` };
    const call = calls[host]();
    time(call, 2000);
    return { ns: time(call, 5000) * 1e6 };
  }
  if (dtype !== 'float32' || !kinds[kind]) return { error: `no ${kind} of ${dtype}` };
  if (!made) {
    const call = kinds[kind](sizes);
    time(call, 2);
    made = { call, count: Math.min(1000, Math.max(1, Math.ceil(runMs / Math.max(time(call, 1), 1e-3)))) };
  }
  return { ms: time(made.call, made.count) };
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(answer(JSON.parse(line))));
