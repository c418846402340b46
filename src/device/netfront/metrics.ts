/** What a netfront device counts. Directions are the frontend's own. */
import { FrameCounters } from '../metrics.js';

export class NetfrontMetrics {
  readonly tx = new FrameCounters();
  readonly rx = new FrameCounters();

  reset(): void {
    this.tx.reset();
    this.rx.reset();
  }
}
