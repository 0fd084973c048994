// The element-wise functions, one or two operands each. Operands of two shapes are broadcast (trailing dimensions align, a size of 1
// repeats); a JavaScript number adapts to the tensor's dtype. What a result's dtype is stands in pointwise_table.ts.
import { isFloating } from '../dtype.js';
import { ValueError } from '../errors.js';
import type { Operand, Tensor } from '../tensor.js';
import { checkTensor } from './arguments.js';
import { type Binary, binary, binaryInto, type Unary, unary, unaryInto } from './pointwise_table.js';

const power = binary('pow');
const powerInto = binaryInto('pow');
function wholePower(op: string, x: Tensor, exponent: Operand): Operand {
  checkTensor(x, op);
  if (typeof exponent === 'number' && Number.isInteger(exponent) && exponent < 0 && !isFloating(x.dtype))
    throw new ValueError(`${op}: ${x.dtype} to the power ${exponent} is not whole; convert it with float()`);
  return exponent;
}

/** −x. */
export const neg: Unary = unary('neg');
/** |x|. The gradient at 0 is 0. */
export const abs: Unary = unary('abs');
/** −1, 0 or 1 by the sign of x; its gradient is 0. */
export const sign: Unary = unary('sign');
/** x². */
export const square: Unary = unary('square');
/** 1 / x. Integers give float32. */
export const reciprocal: Unary = unary('reciprocal');
/** √x; NaN below 0. Integers give float32. */
export const sqrt: Unary = unary('sqrt');
/** 1 / √x. Integers give float32. */
export const rsqrt: Unary = unary('rsqrt');
/** eˣ. Integers give float32. */
export const exp: Unary = unary('exp');
/** 2ˣ. Integers give float32. */
export const exp2: Unary = unary('exp2');
/** eˣ − 1, exact near 0. Integers give float32. */
export const expm1: Unary = unary('expm1');
/** Natural logarithm: −∞ at 0, NaN below. Integers give float32. */
export const log: Unary = unary('log');
/** Logarithm to base 2. Integers give float32. */
export const log2: Unary = unary('log2');
/** Logarithm to base 10. Integers give float32. */
export const log10: Unary = unary('log10');
/** ln(1 + x), exact near 0. Integers give float32. */
export const log1p: Unary = unary('log1p');
/** Sine of an angle in radians. Integers give float32. */
export const sin: Unary = unary('sin');
/** Cosine of an angle in radians. Integers give float32. */
export const cos: Unary = unary('cos');
/** Tangent of an angle in radians. Integers give float32. */
export const tan: Unary = unary('tan');
/** Arc sine in radians, [−π/2, π/2]; NaN outside of [−1, 1]. */
export const asin: Unary = unary('asin');
/** Arc cosine in radians, [0, π]; NaN outside of [−1, 1]. */
export const acos: Unary = unary('acos');
/** Arc tangent in radians, (−π/2, π/2). For a quotient with its quadrant see `atan2`. */
export const atan: Unary = unary('atan');
/** Hyperbolic sine. Integers give float32. */
export const sinh: Unary = unary('sinh');
/** Hyperbolic cosine. Integers give float32. */
export const cosh: Unary = unary('cosh');
/** Hyperbolic tangent, in (−1, 1). Integers give float32. */
export const tanh: Unary = unary('tanh');
/** Inverse of the hyperbolic sine. Integers give float32. */
export const asinh: Unary = unary('asinh');
/** Inverse of the hyperbolic cosine; NaN below 1. */
export const acosh: Unary = unary('acosh');
/** Inverse of the hyperbolic tangent; ±∞ at ±1, NaN beyond. */
export const atanh: Unary = unary('atanh');
/** Gauss's error function, 2/√π ∫₀ˣ e^(−t²) dt. */
export const erf: Unary = unary('erf');
/** 1 − erf(x), exact for large x too. */
export const erfc: Unary = unary('erfc');
/** Logistic function, 1 / (1 + e⁻ˣ). Integers give float32. */
export const sigmoid: Unary = unary('sigmoid');
/** ln(sigmoid(x)), without underflow for very negative x. */
export const logSigmoid: Unary = unary('logSigmoid');
/** Rectified linear unit: x, or 0 below 0; NaN stays NaN. */
export const relu: Unary = unary('relu');
/** x limited to [0, 6]. */
export const relu6: Unary = unary('relu6');
/** x·sigmoid(x), also called Swish (Elfwing et al., 2017). */
export const silu: Unary = unary('silu');
/** x·tanh(softplus(x)) (Misra, 2019). */
export const mish: Unary = unary('mish');
/** ln(1 + eˣ), a smooth relu, without overflow for large x. */
export const softplus: Unary = unary('softplus');
/** Scaled exponential linear unit of self-normalizing networks (Klambauer et al., 2017), with the paper's two constants. */
export const selu: Unary = unary('selu');
/** x limited to [−1, 1]. */
export const hardtanh: Unary = unary('hardtanh');
/** x·hardsigmoid(x) (Howard et al., MobileNetV3, 2019). */
export const hardswish: Unary = unary('hardswish');
/** Straight lines in place of the sigmoid: x/6 + 1/2 limited to [0, 1]. */
export const hardsigmoid: Unary = unary('hardsigmoid');
/** The smallest whole number that is not below x. The dtype stays. */
export const ceil: Unary = unary('ceil');
/** The largest whole number that is not above x. The dtype stays. */
export const floor: Unary = unary('floor');
/** To the nearest whole number, halves to even. The dtype stays. */
export const round: Unary = unary('round');
/** To the whole number towards 0. The dtype stays. */
export const trunc: Unary = unary('trunc');
/** What `trunc` takes away, with the sign of x. */
export const frac: Unary = unary('frac');
/** A bool tensor: true where x is NaN. */
export const isnan: Unary = unary('isnan');
/** A bool tensor: true where x is ∞ or −∞. */
export const isinf: Unary = unary('isinf');
/** A bool tensor: true where x is neither infinite nor NaN. */
export const isfinite: Unary = unary('isfinite');
/** A bool tensor: true where x is 0. */
export const logicalNot: Unary = unary('logicalNot');
/** All bits turned; for bool the logical not. Integers and bool only: floats are a DTypeError. */
export const bitwiseNot: Unary = unary('bitwiseNot');

/** x + other. */
export const add: Binary = binary('add');
/** x − other. */
export const sub: Binary = binary('sub');
/** x · other. */
export const mul: Binary = binary('mul');
/** True division: integers give float32. */
export const div: Binary = binary('div');
/** x to a power. Whole numbers stay whole, so that a negative power of them is a ValueError. */
export const pow: Binary = (x, exponent) => power(x, wholePower('pow', x, exponent));
/** Element-wise larger; NaN wins. Where both are equal, each gets half of the gradient. */
export const maximum: Binary = binary('maximum');
/** Element-wise smaller; NaN wins. Where both are equal, each gets half of the gradient. */
export const minimum: Binary = binary('minimum');
/** Remainder with the sign of x (C's fmod). Integers divided by 0 are a ValueError where the result is waited for. */
export const fmod: Binary = binary('fmod');
/** Remainder with the sign of the divisor (Python's %). Integers divided by 0 are a ValueError where the result is waited for. */
export const remainder: Binary = binary('remainder');
/** The quotient rounded down (Python's //). Integers divided by 0 are a ValueError where the result is waited for. */
export const floorDivide: Binary = binary('floorDivide');
/** The angle of the point (other, x) in radians, (−π, π]: x is the height, as in C. */
export const atan2: Binary = binary('atan2');
/** √(x² + other²), without overflow on the way. */
export const hypot: Binary = binary('hypot');
/** ln(eˣ + e^other), without overflow. */
export const logaddexp: Binary = binary('logaddexp');
/** The magnitude of x with the sign of other (that of −0 too). */
export const copysign: Binary = binary('copysign');
/** x·ln(other), 0 where x is 0. */
export const xlogy: Binary = binary('xlogy');
/** A bool tensor: x = other. NaN equals nothing. */
export const eq: Binary = binary('eq');
/** A bool tensor: x ≠ other. */
export const ne: Binary = binary('ne');
/** A bool tensor: x < other. */
export const lt: Binary = binary('lt');
/** A bool tensor: x ≤ other. */
export const le: Binary = binary('le');
/** A bool tensor: x > other. */
export const gt: Binary = binary('gt');
/** A bool tensor: x ≥ other. */
export const ge: Binary = binary('ge');
/** A bool tensor: both are not 0. */
export const logicalAnd: Binary = binary('logicalAnd');
/** A bool tensor: at least one is not 0. */
export const logicalOr: Binary = binary('logicalOr');
/** A bool tensor: exactly one is not 0. */
export const logicalXor: Binary = binary('logicalXor');
/** The bits that both have. Integers and bool only: floats are a DTypeError. */
export const bitwiseAnd: Binary = binary('bitwiseAnd');
/** The bits that either has. Integers and bool only: floats are a DTypeError. */
export const bitwiseOr: Binary = binary('bitwiseOr');
/** The bits that exactly one has. Integers and bool only: floats are a DTypeError. */
export const bitwiseXor: Binary = binary('bitwiseXor');
/** Bits of x moved up by other places (PyTorch's bitwise_left_shift); a count outside of [0, 64) shifts everything out. */
export const shiftLeft: Binary = binary('shiftLeft');
/** Bits of x moved down by other places with the sign kept (PyTorch's bitwise_right_shift). */
export const shiftRight: Binary = binary('shiftRight');

/** In place: x + other. Shape and dtype of x stay; what does not fit them throws, as do all in-place forms. */
export const add_: Binary = binaryInto('add');
/** In place: x − other. */
export const sub_: Binary = binaryInto('sub');
/** In place: x · other. */
export const mul_: Binary = binaryInto('mul');
/** In place: x / other. A DTypeError for integers, whose quotient is a float. */
export const div_: Binary = binaryInto('div');
/** In place: x to a power. */
export const pow_: Binary = (x, exponent) => powerInto(x, wholePower('pow_', x, exponent));
/** In place: −x. */
export const neg_: Unary = unaryInto('neg');
/** In place: eˣ. */
export const exp_: Unary = unaryInto('exp');
/** In place: √x. */
export const sqrt_: Unary = unaryInto('sqrt');
/** In place: 0 in place of what is below 0. */
export const relu_: Unary = unaryInto('relu');
/** In place: hyperbolic tangent. */
export const tanh_: Unary = unaryInto('tanh');
/** In place: logistic function. */
export const sigmoid_: Unary = unaryInto('sigmoid');
