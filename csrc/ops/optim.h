// The calling convention of the optimizer steps, followed by every backend and by lib/optim: the device buffer, the
// tensor lists and the options. What may change from step to step lives in the device buffer, so that a captured step
// can be replayed with other values and a step can be skipped without a host wait; options are constants of a run.
//
// One call takes all parameter groups, in group order; tensors whose gradient is missing are left out of the call.
//
// The device buffer `step` is one contiguous float64 row, for G groups and P parameters (float64: a learning rate then
// is exactly the JavaScript number, and a count is exact):
//   [0, kStepSlots)          the slots below; a fresh buffer has 1, 1, 0, 0...
//   then kRateRows rows      of G learning rates each, written by the host
//   then P step counts       steps this parameter has taken; the kernel follows count + 1 and writes it back
//   then P skip flags        not 0: that parameter, its states and its count stay as they are
// A count belongs to a parameter and not to the optimizer, as in PyTorch: a parameter that joins late or is not used
// in every step has the bias correction of its own age. The host learns late of steps that were skipped for found-inf,
// and each rank at another time. So it writes down the rates for every number of skips that it may not have heard of:
// row r is in force when `skipped` is r more than `knownSkips`, the last row also for more. Rates then depend on the
// steps taken and on nothing else.
//
// `tensors` = `lists` lists of n tensors one after another:
//   parameters, gradients, the states of the table in that order, masters (only if options say so).
// States and masters are float32 (float64 beside float64 parameters); any float kind and any strides are accepted.
// A gradient may have another float kind than its parameter. Where a master is given the step is done on it, and the
// parameter receives the rounded copy in the same pass; a parameter that needs no master is its own: the same tensor.
// States in brackets are optional lists: absent from the end on when no group uses them; a group that does not use a
// list that is present may give any tensor of the right size, it is not touched.
//
// `options` = G, flags (1: masters, 2: pieces), two 32-bit halves of a seed, then one row for each group: the number
// of its tensors in this call, weightDecay, maximize, stochastic, and the fields of the table; then for each of the n
// tensors its parameter index in [0, P). In a stochastic group bfloat16 parameters without a master are stored by
// stochastic rounding (stochastic.h). With pieces, a number follows for each tensor: 0, or the place in `options` where
// it says which parameter this is, by its number in the whole model, and which elements of it (piece.h).
//
//   step         states                                    fields of a group                        after
//   sgdStep      [momentumBuffer]                          momentum dampening nesterov              torch.optim.SGD
//   adamStep     expAvg expAvgSq [maxExpAvgSq]             beta1 beta2 eps amsgrad decoupled        Adam, AdamW
//   adagradStep  sum                                       lrDecay eps                              Adagrad
//   rmspropStep  squareAvg [momentumBuffer] [gradAvg]      alpha eps momentum centered              RMSprop
//   lambStep     expAvg expAvgSq                           beta1 beta2 eps                          You et al. 2020
//   lionStep     expAvg                                    beta1 beta2                              Chen et al. 2023
//
// Weight decay is added to the gradient, except in adamStep with decoupled, lionStep (the parameter shrinks by
// lr * weightDecay) and lambStep (added to the update, before the trust ratio).
#pragma once

namespace sg {

enum StepSlot : int {
  kClipFactor = 0,  // gradients are multiplied by it
  kLossScale = 1,   // gradients are divided by it
  kFoundInf = 2,    // not 0: nothing changes in this step, the counts included, but for the next slot
  kSkipped = 3,     // steps skipped for found-inf
  kKnownSkips = 7,  // those of which the host knew when it wrote the rates, which follow
  kStepSlots = 8,
};

inline constexpr int kRateRows = 16;

}  // namespace sg
