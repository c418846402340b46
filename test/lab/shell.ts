/** A person's prompt in dom0: this process's terminal, wired to a terminal of dom0's. */

import type { Lab } from './lab.js';

const TTY_FILE = '/run/xenvif-lab-tty';
const RC_FILE = '/run/xenvif-lab-bashrc';

/**
 * Gives the terminal to a root shell in dom0; resolves with its exit code when it ends.
 *
 * The terminal is raw meanwhile, so Ctrl-C and all else goes to the shell. Its size follows.
 */
export async function runShell(lab: Lab, folder: string): Promise<number> {
  const { stdin, stdout } = process;
  await lab.writeFile(RC_FILE, `PS1='dom0:\\w# '\nunset HISTFILE\ncd '${folder}'\n`);
  const size = (): string => `rows ${stdout.rows ?? 24} cols ${stdout.columns ?? 80}`;
  const inside = `tty > ${TTY_FILE}; stty ${size()}; exec bash --rcfile ${RC_FILE} -i`;
  // script gives the shell a terminal of its own, which pipes are not.
  const shell = lab.spawn(`exec script -qfe -E always -c '${inside}' /dev/null`, {
    env: { TERM: process.env['TERM'] ?? 'linux' },
  });
  shell.on('stdout', (bytes) => stdout.write(bytes));

  const type = (bytes: Buffer): void => shell.write(bytes);
  const resize = (): void => {
    // A size that comes too late, or to a shell that has ended, costs nothing but looks.
    lab.run(`stty -F $(cat ${TTY_FILE}) ${size()}`).catch(() => undefined);
  };
  stdin.setRawMode(true);
  stdin.on('data', type);
  stdin.resume();
  stdout.on('resize', resize);
  try {
    return (await shell.wait()).code;
  } finally {
    stdout.off('resize', resize);
    stdin.off('data', type);
    stdin.pause();
    stdin.setRawMode(false);
  }
}
