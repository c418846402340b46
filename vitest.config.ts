import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const client = fileURLToPath(new URL('./clients/typescript/src/index.ts', import.meta.url));
const stack = fileURLToPath(new URL('./clients/typescript/src/stack/index.ts', import.meta.url));
const garbage = fileURLToPath(new URL('./clients/typescript/src/garbage.ts', import.meta.url));
const messagePrefix = fileURLToPath(
  new URL('./clients/typescript/src/message-prefix.ts', import.meta.url),
);
const messageReceiver = fileURLToPath(
  new URL('./clients/typescript/src/message-receiver.ts', import.meta.url),
);
const wire = fileURLToPath(
  new URL('./clients/typescript/src/stack/wire/index.ts', import.meta.url),
);

/**
 * Files of the lab that end its machine, or want it without the daemon, as the last ones do.
 */
const BARE_LAB_FILES = [
  'orchestration-xenstored.test.ts',
  'throughput.test.ts',
  'netfront.test.ts',
  'xen-contract.test.ts',
  'lab.test.ts',
];

/** Usual but for the lab, whose machine is not to go back and forth between its two forms. */
class Sequencer extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId, project }: TestSpecification): number =>
      project.name === 'lab' ? BARE_LAB_FILES.indexOf(basename(moduleId)) : -1;
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

/**
 * When what hangs is ended, in milliseconds. No test is about this: a machine that does much else
 * takes minutes for what it does in seconds alone.
 */
const HANG_MS = 300_000;
/** The same for what a test waits for, so that a test that hangs says where. */
const POLL_MS = 60_000;

/** Each kind of test is a project of its own, so that one kind can be run alone. */
export default defineConfig({
  resolve: {
    alias: {
      '@xenvif/client/garbage': garbage,
      '@xenvif/client/message-prefix': messagePrefix,
      '@xenvif/client/message-receiver': messageReceiver,
      '@xenvif/client/stack': stack,
      '@xenvif/client/wire': wire,
      '@xenvif/client': client,
    },
  },
  test: {
    sequence: { sequencer: Sequencer },
    testTimeout: HANG_MS,
    hookTimeout: HANG_MS,
    expect: { poll: { timeout: POLL_MS } },
    projects: [
      {
        extends: true,
        test: { name: 'unit', include: ['test/unit/**/*.test.ts'] },
      },
      {
        extends: true,
        test: { name: 'golden', include: ['test/golden/**/*.test.ts'] },
      },
      {
        extends: true,
        test: { name: 'e2e', include: ['test/e2e/**/*.test.ts'] },
      },
      {
        extends: true,
        test: { name: 'hostile', include: ['test/hostile/**/*.test.ts'] },
      },
      {
        extends: true,
        test: { name: 'sim', include: ['test/sim/**/*.test.ts'], testTimeout: 1_800_000 },
      },
      {
        extends: true,
        test: { name: 'fuzz', include: ['test/fuzz/**/*.test.ts'] },
      },
      {
        extends: true,
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          fileParallelism: false,
          // One process for all files, so that they can share a machine: test/lab/shared-machine.ts.
          isolate: false,
        },
      },
    ],
  },
});
