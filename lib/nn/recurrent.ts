// LSTM and GRU with PyTorch's parameter names and gate order. The input's part of all gates is one matrix product over the whole
// sequence; only the recurrent part runs step by step.
import { zeros } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { castInputs } from '../ops/autocast.js';
import { cat, chunk, stack } from '../ops/joining.js';
import { linear } from '../ops/matmul.js';
import { add, mul, sigmoid, sub, tanh } from '../ops/pointwise.js';
import { select, transpose } from '../ops/view.js';
import { type Every, withOptions } from '../options.js';
import { dropout } from '../random.js';
import { checkNumber } from '../shape.js';
import { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** Options of `LSTM` and `GRU`. */
export interface RecurrentOptions extends FactoryOptions {
  /** Layers on top of each other. Default 1. */
  numLayers?: number;
  /** Learn biases. Default true. */
  bias?: boolean;
  /** Inputs and outputs are [batch, time, features] instead of [time, batch, features]. Default false. */
  batchFirst?: boolean;
  /** Probability of dropout between layers, in training. Default 0. */
  dropout?: number;
  /** A second direction, from the end to the start, its features beside the first's. Default false. */
  bidirectional?: boolean;
}

const RECURRENT: Every<RecurrentOptions> = { numLayers: 1, bias: true, batchFirst: false, dropout: 0, bidirectional: false, ...FACTORY };

interface CellWeights {
  readonly inputGates: Tensor;
  readonly hidden: Parameter;
  readonly hiddenBias: Parameter | null;
}

abstract class Recurrent extends Module {
  protected readonly layers: number;
  protected readonly directions: number;
  private readonly o: RecurrentOptions;

  constructor(
    /** Features of the input. */
    readonly inputSize: number,
    /** Features of the state. */
    readonly hiddenSize: number,
    given: RecurrentOptions,
    gates: number,
  ) {
    super();
    const where = new.target.name;
    checkSize(inputSize, 'inputSize', where);
    checkSize(hiddenSize, 'hiddenSize', where);
    const options = withOptions(where, RECURRENT, given);
    checkNumber(options.dropout ?? 0, 'dropout', where, 0, 1);
    this.o = options;
    this.layers = checkSize(options.numLayers ?? 1, 'numLayers', where);
    this.directions = options.bidirectional ? 2 : 1;
    const bound = 1 / Math.sqrt(hiddenSize);
    for (let layer = 0; layer < this.layers; layer++) {
      for (let direction = 0; direction < this.directions; direction++) {
        const features = layer === 0 ? inputSize : hiddenSize * this.directions;
        this.set('weight_ih', layer, direction, parameter([gates * hiddenSize, features], options), bound);
        this.set('weight_hh', layer, direction, parameter([gates * hiddenSize, hiddenSize], options), bound);
        if (options.bias === false) continue;
        this.set('bias_ih', layer, direction, parameter([gates * hiddenSize], options), bound);
        this.set('bias_hh', layer, direction, parameter([gates * hiddenSize], options), bound);
      }
    }
  }

  private set(name: string, layer: number, direction: number, p: Parameter, bound: number): void {
    init.uniform_(p, -bound, bound);
    (this as unknown as Record<string, Parameter>)[`${name}_l${layer}${direction ? '_reverse' : ''}`] = p;
  }
  private weight(name: string, layer: number, direction: number): Parameter | null {
    return (this as unknown as Record<string, Parameter | undefined>)[`${name}_l${layer}${direction ? '_reverse' : ''}`] ?? null;
  }

  /** One direction of one layer over [T, B, F]: outputs in time order, and the last state. */
  protected abstract scan(w: CellWeights, state: Tensor[], times: readonly number[]): { outputs: Tensor[]; state: Tensor[] };

  /** All layers; `states` are [layers·directions, B, H] each. */
  protected runLayers(x: Tensor, states: Tensor[]): { output: Tensor; states: Tensor[] } {
    if (!(x instanceof Tensor) || x.ndim !== 3 || x.shape[2] !== this.inputSize) {
      throw new ShapeError(
        `${this.constructor.name}: expected 3 dimensions with ${this.inputSize} features, got ${x instanceof Tensor ? `[${x.shape}]` : describe(x)}`,
      );
    }
    const [input, ...initial] = castInputs('recurrent', [x, ...states]) as [Tensor, ...Tensor[]];
    let sequence = this.o.batchFirst ? transpose(input, 0, 1) : input;
    const time = sequence.shape[0]!;
    if (time === 0) throw new ShapeError(`${this.constructor.name}: the sequence [${x.shape}] has no steps`);
    const forward = Array.from({ length: time }, (_, i) => i);
    const last: Tensor[][] = [];
    for (let layer = 0; layer < this.layers; layer++) {
      const outputs: Tensor[] = [];
      for (let direction = 0; direction < this.directions; direction++) {
        const at = layer * this.directions + direction;
        const w: CellWeights = {
          inputGates: linear(sequence, this.weight('weight_ih', layer, direction)!, this.weight('bias_ih', layer, direction)),
          hidden: this.weight('weight_hh', layer, direction)!,
          hiddenBias: this.weight('bias_hh', layer, direction),
        };
        const run = this.scan(
          w,
          initial.map((s) => select(s, 0, at)),
          direction ? forward.toReversed() : forward,
        );
        outputs.push(stack(direction ? run.outputs.toReversed() : run.outputs, 0));
        last.push(run.state);
      }
      sequence = outputs.length > 1 ? cat(outputs, 2) : outputs[0]!;
      if (this.training && this.o.dropout && layer < this.layers - 1) sequence = dropout(sequence, this.o.dropout);
    }
    return {
      output: this.o.batchFirst ? transpose(sequence, 0, 1) : sequence,
      states: states.map((_, i) =>
        stack(
          last.map((s) => s[i]!),
          0,
        ),
      ),
    };
  }

  protected initial(x: Tensor, given: Tensor | null | undefined, name: string): Tensor {
    const batch = x?.shape?.[this.o.batchFirst ? 0 : 1] ?? 0;
    const shape = [this.layers * this.directions, batch, this.hiddenSize];
    if (given === undefined || given === null) return zeros(shape, { dtype: x?.dtype, device: x?.device });
    if (!(given instanceof Tensor) || given.ndim !== 3 || given.shape.some((s, i) => s !== shape[i])) {
      throw new ShapeError(`${this.constructor.name}: ${name} must be [${shape}], got ${given instanceof Tensor ? `[${given.shape}]` : describe(given)}`);
    }
    return given;
  }
}

/** Long short-term memory (Hochreiter & Schmidhuber, 1997). `forward(x, [h, c]?)` gives [output, [h, c]]. */
export class LSTM extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super(inputSize, hiddenSize, options, 4);
  }
  /**
   * x `[T, B, inputSize]` (batch first: `[B, T, inputSize]`) and states `[layers·directions, B, hiddenSize]`, zeros unless given, to the
   * outputs of the last layer and the last states.
   */
  override forward(x: Tensor, state?: readonly [Tensor, Tensor] | null): [Tensor, [Tensor, Tensor]] {
    if (state !== undefined && state !== null && (!Array.isArray(state) || state.length !== 2))
      throw new ValueError(`LSTM: the state must be [h, c], got ${describe(state)}`);
    const run = this.runLayers(x, [this.initial(x, state?.[0], 'h'), this.initial(x, state?.[1], 'c')]);
    return [run.output, run.states as [Tensor, Tensor]];
  }
  protected override scan(w: CellWeights, [h0, c0]: Tensor[], times: readonly number[]): { outputs: Tensor[]; state: Tensor[] } {
    let [h, c] = [h0!, c0!];
    const outputs: Tensor[] = [];
    for (const t of times) {
      const gates = linear(h, w.hidden, w.hiddenBias, { residual: select(w.inputGates, 0, t) });
      const [i, f, g, o] = chunk(gates, 4, 1) as [Tensor, Tensor, Tensor, Tensor];
      c = add(mul(sigmoid(f), c), mul(sigmoid(i), tanh(g)));
      h = mul(sigmoid(o), tanh(c));
      outputs.push(h);
    }
    return { outputs, state: [h, c] };
  }
}

/** Gated recurrent unit (Cho et al., 2014). `forward(x, h?)` gives [output, h]. */
export class GRU extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super(inputSize, hiddenSize, options, 3);
  }
  /**
   * x `[T, B, inputSize]` (batch first: `[B, T, inputSize]`) and a state `[layers·directions, B, hiddenSize]`, zeros unless given, to the
   * outputs of the last layer and the last state.
   */
  override forward(x: Tensor, state?: Tensor | null): [Tensor, Tensor] {
    const run = this.runLayers(x, [this.initial(x, state, 'h')]);
    return [run.output, run.states[0]!];
  }
  protected override scan(w: CellWeights, [h0]: Tensor[], times: readonly number[]): { outputs: Tensor[]; state: Tensor[] } {
    let h = h0!;
    const outputs: Tensor[] = [];
    for (const t of times) {
      const [xr, xz, xn] = chunk(select(w.inputGates, 0, t), 3, 1) as [Tensor, Tensor, Tensor];
      const [hr, hz, hn] = chunk(linear(h, w.hidden, w.hiddenBias), 3, 1) as [Tensor, Tensor, Tensor];
      const z = sigmoid(add(xz, hz));
      const n = tanh(add(xn, mul(sigmoid(add(xr, hr)), hn)));
      h = add(n, mul(z, sub(h, n)));
      outputs.push(h);
    }
    return { outputs, state: [h] };
  }
}
