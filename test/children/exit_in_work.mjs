// Ends the process with thousands of commands in the queue.
import * as sg from '../../dist/lib/index.js';

let x = sg.ones([200, 200]);
for (let i = 0; i < 3000; i++) x = x.matmul(x).div(200);
process.exit(7);
