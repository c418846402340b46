import { describe, expect, test } from 'vitest';
import { nextBackendState, parseXenbusState, XenbusState } from '../../../src/xen/xenbus.js';

const {
  unknown,
  initialising,
  initWait,
  initialised,
  connected,
  closing,
  closed,
  reconfiguring,
  reconfigured,
} = XenbusState;
const FRONTENDS = [
  unknown,
  initialising,
  initWait,
  initialised,
  connected,
  closing,
  closed,
  reconfiguring,
  reconfigured,
];

/** What the backend does next, by its own state (row) and the frontend's (column, 0 to 8). */
const ONLINE: Readonly<Record<number, readonly number[]>> = {
  [initialising]: [2, 2, 2, 2, 2, 2, 6, 2, 2],
  [initWait]: [2, 2, 2, 4, 4, 5, 5, 2, 2],
  [connected]: [4, 5, 5, 4, 4, 5, 5, 5, 5],
  [closing]: [6, 6, 6, 5, 5, 5, 6, 6, 6],
  [closed]: [6, 2, 6, 6, 6, 6, 6, 6, 6],
};
const OFFLINE: Readonly<Record<number, readonly number[]>> = {
  [initialising]: [6, 6, 6, 6, 6, 6, 6, 6, 6],
  [initWait]: [5, 5, 5, 5, 5, 5, 5, 5, 5],
  [connected]: [5, 5, 5, 5, 5, 5, 5, 5, 5],
  [closing]: [6, 6, 6, 5, 5, 5, 6, 6, 6],
  [closed]: [6, 6, 6, 6, 6, 6, 6, 6, 6],
};

describe('the backend’s next state', () => {
  for (const [name, table, online] of [
    ['online', ONLINE, true],
    ['offline', OFFLINE, false],
  ] as const) {
    for (const [row, expected] of Object.entries(table)) {
      test(`${name}, own state ${row}`, () => {
        const own = parseXenbusState(row);
        const next = FRONTENDS.map((frontend) =>
          nextBackendState({ own, frontend, frontendPresent: true, online }),
        );
        expect(next).toEqual(expected);
      });
    }
  }

  test('a frontend whose directory is gone ends a connection, by way of Closing', () => {
    const gone = { frontend: unknown, frontendPresent: false, online: true };
    expect(nextBackendState({ own: connected, ...gone })).toBe(closing);
    expect(nextBackendState({ own: closing, ...gone })).toBe(closed);
    expect(nextBackendState({ own: closed, ...gone })).toBe(closed);
  });

  test('from every state and towards every frontend it comes to rest within three steps', () => {
    for (const frontend of FRONTENDS) {
      for (const online of [true, false]) {
        for (const frontendPresent of [true, false]) {
          for (const start of [initialising, initWait, connected, closing, closed] as const) {
            let own: typeof start | (typeof FRONTENDS)[number] = start;
            for (let step = 0; step < 3; step += 1) {
              own = nextBackendState({ own, frontend, frontendPresent, online });
            }
            const still = nextBackendState({ own, frontend, frontendPresent, online });
            expect(still, `from ${start} with frontend ${frontend}`).toBe(own);
          }
        }
      }
    }
  });

  test('what is no state is no state', () => {
    for (const value of [
      '',
      '0',
      '9',
      '99',
      '4 ',
      ' 4',
      '4x',
      '-1',
      '0x4',
      '4\0',
      '４',
      undefined,
    ]) {
      expect(parseXenbusState(value)).toBe(unknown);
    }
    expect(parseXenbusState('4')).toBe(connected);
  });
});
