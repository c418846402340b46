import { describe, expect, test } from 'vitest';
import { type FrontendView, nextFrontendState, XenbusState } from '../../../../src/xen/xenbus.js';

const { unknown, initialising, connected, closing, closed } = XenbusState;
const STATES = Object.values(XenbusState);

type Case = Omit<FrontendView, 'own' | 'backend'>;
const OPEN: Case = { wish: 'open', online: true, rings: 'none' };

/** What the frontend does next, for each state of the backend (column, 0 to 8). */
const TABLE: readonly [string, XenbusState, Case, readonly number[]][] = [
  ['Initialising, waits for an offer', 1, OPEN, [1, 1, 4, 1, 1, 1, 1, 1, 1]],
  ['Initialising, and the vif goes', 1, { ...OPEN, online: false }, [1, 1, 4, 1, 1, 6, 1, 1, 1]],
  ['Initialising, not wanted', 1, { ...OPEN, wish: 'closed' }, [6, 6, 6, 6, 6, 6, 6, 6, 6]],
  ['Connected, announced', 4, { ...OPEN, rings: 'announced' }, [5, 5, 4, 4, 4, 5, 5, 5, 5]],
  ['Connected, established', 4, { ...OPEN, rings: 'established' }, [5, 5, 5, 4, 4, 5, 5, 5, 5]],
  ['Connected, in a former life', 4, OPEN, [5, 5, 5, 5, 5, 5, 5, 5, 5]],
  [
    'Connected, to start anew',
    4,
    { ...OPEN, wish: 'reopen', rings: 'established' },
    [5, 5, 5, 5, 5, 5, 5, 5, 5],
  ],
  [
    'Connected, not wanted',
    4,
    { ...OPEN, wish: 'closed', rings: 'established' },
    [5, 5, 5, 5, 5, 5, 5, 5, 5],
  ],
  ['Closing', 5, OPEN, [6, 6, 6, 5, 5, 6, 6, 6, 6]],
  ['Closed, by the backend', 6, OPEN, [6, 1, 1, 6, 6, 6, 6, 6, 6]],
  ['Closed, to start anew', 6, { ...OPEN, wish: 'reopen' }, [1, 1, 1, 6, 6, 6, 1, 6, 6]],
  [
    'Closed, and the vif goes',
    6,
    { ...OPEN, wish: 'reopen', online: false },
    [6, 6, 6, 6, 6, 6, 6, 6, 6],
  ],
  ['Closed, not wanted', 6, { ...OPEN, wish: 'closed' }, [6, 6, 6, 6, 6, 6, 6, 6, 6]],
  ['gone', 0, OPEN, [0, 0, 0, 0, 0, 0, 0, 0, 0]],
];

describe('the frontend’s next state', () => {
  for (const [name, own, rest, expected] of TABLE) {
    test(name, () => {
      const next = STATES.map((backend) => nextFrontendState({ own, backend, ...rest }));
      expect(next).toEqual(expected);
    });
  }

  test('Closing is never skipped on the way from Connected', () => {
    for (const wish of ['open', 'reopen', 'closed'] as const) {
      for (const rings of ['none', 'announced', 'established'] as const) {
        for (const backend of STATES) {
          for (const online of [true, false]) {
            const next = nextFrontendState({ own: connected, backend, wish, rings, online });
            expect([connected, closing]).toContain(next);
          }
        }
      }
    }
  });

  test('a device that is not wanted comes to rest in Closed once the backend lets go', () => {
    for (const start of [initialising, connected, closing, closed] as const) {
      for (const backend of [unknown, closing, closed] as const) {
        let own: XenbusState = start;
        for (let step = 0; step < 2; step += 1) {
          own = nextFrontendState({ own, backend, wish: 'closed', rings: 'none', online: true });
        }
        expect(own).toBe(closed);
      }
    }
  });
});
