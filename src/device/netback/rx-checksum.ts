/** What an RX slot says of a frame's checksum. */
import { RX_CSUM_BLANK, RX_DATA_VALIDATED } from '../../ring/netif-rx.js';
import { CHECKSUM_BLANK, DATA_VALIDATED } from '../frame-batch.js';

/** The checksum bits as an RX slot has them: the other way round than in TX. */
export function checksumFlags(flags: number): number {
  let result = 0;
  if ((flags & CHECKSUM_BLANK) !== 0) result |= RX_CSUM_BLANK | RX_DATA_VALIDATED;
  if ((flags & DATA_VALIDATED) !== 0) result |= RX_DATA_VALIDATED;
  return result;
}
