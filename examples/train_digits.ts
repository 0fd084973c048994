// Trains a small convolutional network on handwritten digits to more than 97% in under a minute on a laptop's CPU.
//
//   npm run digits [-- --epochs 5 --batch 64 --lr 2e-3 --seed 1 --device cpu]
import * as sg from 'shardgrad';
import { data, nn, optim } from 'shardgrad';
import { explainMistakes, readOptions } from './report.js';

explainMistakes();

const { args, number, count } = readOptions({
  epochs: { type: 'string', default: '5' },
  batch: { type: 'string', default: '64' },
  lr: { type: 'string', default: '2e-3' },
  device: { type: 'string', default: 'cpu' },
  seed: { type: 'string', default: '1' },
});
const [epochs, batchSize, seed, lr] = [count('epochs'), count('batch'), count('seed', 0), number('lr')];

class DigitNet extends nn.Module {
  conv1 = new nn.Conv2d(1, 16, 3, { padding: 1 });
  conv2 = new nn.Conv2d(16, 32, 3, { padding: 1 });
  norm = new nn.BatchNorm2d(32);
  dropout = new nn.Dropout(0.2);
  fc = new nn.Linear(32 * 7 * 7, 10);

  override forward(x: sg.Tensor): sg.Tensor {
    const h = sg.maxPool2d(this.conv1.forward(x).relu(), 2);
    const g = sg.maxPool2d(this.norm.forward(this.conv2.forward(h)).relu(), 2);
    return this.fc.forward(this.dropout.forward(g.flatten(1)));
  }
}

const { train, test } = data.digits();
const loader = new data.DataLoader(train, { batchSize, shuffle: true, seed, dropLast: true, device: args.device });
if (loader.length === 0) throw new sg.ValueError(`--batch ${batchSize} is more than the ${train.length} training images`);
const held = new data.DataLoader(test, { batchSize: 250, device: args.device });
sg.manualSeed(seed);
const model = new DigitNet().to(args.device);
const optimizer = new optim.AdamW(model.parameters(), { lr });
const perEpoch = loader.length;
const schedule = new optim.OneCycleLR(optimizer, { maxLr: lr, totalSteps: epochs * perEpoch });

const start = performance.now();
for (let epoch = 1; epoch <= epochs; epoch++) {
  let sum = 0;
  for await (const batch of loader) {
    const loss = sg.scope(() => {
      const loss = sg.crossEntropy(model.forward(batch.images), batch.labels);
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      schedule.step();
      return loss.detach();
    });
    sum += await loss.item();
    loss.dispose();
  }
  model.eval();
  let right = 0;
  for await (const batch of held) {
    const hits = sg.scope(() => sg.inferenceMode(() => model.forward(batch.images).argmax(1).eq(batch.labels).sum()));
    right += await hits.item();
    hits.dispose();
  }
  model.train();
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`epoch ${epoch}/${epochs}  loss ${(sum / perEpoch).toFixed(4)}  test accuracy ${((100 * right) / test.length).toFixed(2)}%  ${seconds} s`);
}
