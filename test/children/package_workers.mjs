// Uses the package by its name, as users do: what it exports, and loader workers, which must find their file beside the bundle.
import * as sg from 'shardgrad';

const tokens = new sg.data.TokenDataset([Uint16Array.from({ length: 65 }, (_, i) => i)], { context: 8 });
const part = new sg.data.Subset(tokens, [3, 1, 0, 2]);
const loader = new sg.data.DataLoader(part, { batchSize: 2, workers: 2 });
const firsts = [];
for await (const batch of loader) firsts.push((await batch.inputs.toArray()).map((row) => row[0]));
console.log(JSON.stringify({ names: Object.keys(sg).sort(), firsts, name: new sg.nn.LSTM(1, 1).constructor.name }));
