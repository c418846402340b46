/** What is one message depends on the time between frames: in these tests none goes by by itself. */
import { afterEach, beforeEach, vi } from 'vitest';

/** Stops the clock that a stream of frames looks at, and rounds of the event loop, for each test. */
export function stopTime(): void {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance', 'setImmediate', 'clearImmediate'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });
}
