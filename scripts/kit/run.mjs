// Runs a command with a time limit and keeps what it says. The command leads a process group of its own, so that nothing it started
// outlives it, also when it hangs.
import { spawn } from 'node:child_process';

/**
 * @param {readonly string[]} command
 * @param {{ cwd: string, env?: Record<string, string>, seconds: number }} options
 * @returns {Promise<{ status: number | null, output: string, late: boolean, seconds: number }>} status null: it did not end by itself
 */
export function run([program, ...args], { cwd, env = {}, seconds }) {
  return new Promise((resolve) => {
    const begin = performance.now();
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let late = false;
    const kill = () => {
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {} // it has just ended
    };
    const timer = setTimeout(() => {
      late = true;
      kill();
    }, seconds * 1000);
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (part) => {
        output += part;
      });
    }
    const end = (status) => {
      clearTimeout(timer);
      resolve({ status, output, late, seconds: (performance.now() - begin) / 1000 });
    };
    child.on('error', (error) => {
      output += `${error.message}\n`;
      end(null);
    });
    child.on('close', (status) => {
      if (child.pid) kill();
      end(status);
    });
  });
}
