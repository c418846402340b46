/** How a vif is shown: where it stands, why, since when, and the labels that its owner gave it. */
import { XenbusState } from '../../xen/xenbus.js';

/** Where a vif stands, in one word; `VifPhase` of the wire contract. */
export type VifPhase = 'connecting' | 'connected' | 'disconnected' | 'deleting' | 'failed';

export interface VifStatus {
  readonly phase: VifPhase;
  readonly reason: string;
  readonly message: string;
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
  readonly backendState: XenbusState;
  readonly frontendState: XenbusState;
  readonly connects: number;
}

/** What stopped a device. */
export interface VifFault {
  readonly code: string;
  readonly message: string;
}

/**
 * Phase, reason and message for the states of both ends. A `fault` has stopped the device, a
 * `complaint` is about what the toolstack wrote while frames flow.
 */
export function describe(
  own: XenbusState,
  frontend: XenbusState,
  online: boolean,
  fault: VifFault | undefined,
  complaint: VifFault | undefined,
): [VifPhase, string, string] {
  if (fault !== undefined) return ['failed', fault.code, fault.message];
  if (own === XenbusState.connected) {
    if (complaint !== undefined) return ['connected', complaint.code, complaint.message];
    return ['connected', 'CONNECTED', 'Frames flow.'];
  }
  if (complaint !== undefined) return ['failed', complaint.code, complaint.message];
  if (!online) return ['deleting', 'OFFLINE', 'The toolstack removes the vif.'];
  if (own === XenbusState.closing || own === XenbusState.closed) {
    return frontend === XenbusState.unknown
      ? ['disconnected', 'FRONTEND_GONE', 'The guest is gone.']
      : ['disconnected', 'FRONTEND_CLOSED', 'The guest closed its side.'];
  }
  return ['connecting', 'WAITING_FOR_FRONTEND', 'Waiting for the guest.'];
}

/** Labels as we wrote them ourselves; anything else in that node is no labels. */
export function parseLabels(value: string | undefined): Record<string, string> {
  if (value === undefined) return {};
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed !== 'object' || parsed === null) return {};
    const entries = Object.entries(parsed);
    return Object.fromEntries(
      entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
    );
  } catch {
    return {};
  }
}
