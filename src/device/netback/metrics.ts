/** What a netback device counts. Directions are the guest's. */
import { FrameCounters } from '../metrics.js';

export class NetbackMetrics {
  readonly tx = new FrameCounters();
  readonly rx = new FrameCounters();
  eventsReceived = 0;
  eventsSent = 0;
  /** When the counters were last zero, in milliseconds since 1970. */
  sinceMs = Date.now();

  reset(): void {
    this.tx.reset();
    this.rx.reset();
    this.eventsReceived = 0;
    this.eventsSent = 0;
    this.sinceMs = Date.now();
  }
}
