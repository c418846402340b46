/**
 * XenBus device states (xen/io/xenbus.h) and the transitions of each side as a pure function: what
 * our state shall become, given ours, the other's and whether the toolstack wants the device.
 * Reading and writing XenStore is the handshake's work, not this file's.
 */

/** `enum xenbus_state`. */
export const XenbusState = {
  unknown: 0,
  initialising: 1,
  initWait: 2,
  initialised: 3,
  connected: 4,
  closing: 5,
  closed: 6,
  reconfiguring: 7,
  reconfigured: 8,
} as const;

export type XenbusState = (typeof XenbusState)[keyof typeof XenbusState];

const NAMES = Object.keys(XenbusState) as (keyof typeof XenbusState)[];

/** The state's name, for logs. */
export function xenbusStateName(state: XenbusState): string {
  return NAMES[state] ?? 'unknown';
}

/**
 * Parses the value of a `state` node. A missing node and anything that is not one decimal digit of
 * a state is `unknown`: the other side's directory is the other side's to fill with rubbish.
 */
export function parseXenbusState(value: string | undefined): XenbusState {
  if (value === undefined || !/^[1-8]$/.test(value)) return XenbusState.unknown;
  return Number(value) as XenbusState;
}

/** What a backend looks at to decide. */
export interface BackendView {
  /** Our own state, as XenStore has it. */
  readonly own: XenbusState;
  readonly frontend: XenbusState;
  /** Whether the frontend's state node exists at all. */
  readonly frontendPresent: boolean;
  /** The toolstack's `online` node: it wants the device. */
  readonly online: boolean;
}

/** The state to go to in the next single step; our own state when there is nothing to do. */
export function nextBackendState(view: BackendView): XenbusState {
  switch (view.own) {
    case XenbusState.initialising:
      return wantsClosed(view) ? XenbusState.closed : XenbusState.initWait;
    case XenbusState.initWait:
      if (wantsClosed(view) || view.frontend === XenbusState.closing) return XenbusState.closing;
      if (isReady(view.frontend)) return XenbusState.connected;
      return XenbusState.initWait;
    case XenbusState.connected:
      // A frontend that is initialising again has forgotten its rings (kexec, a crashed driver):
      // what we have mapped is stale, so we close before we offer a new handshake.
      if (isReady(view.frontend) && view.online) return XenbusState.connected;
      if (view.frontend === XenbusState.unknown && view.frontendPresent && view.online) {
        return XenbusState.connected;
      }
      return XenbusState.closing;
    case XenbusState.closing:
      // Closing is never skipped, and a frontend that still closes is given the time for it.
      if (view.frontend === XenbusState.closing) return XenbusState.closing;
      if (isReady(view.frontend)) return XenbusState.closing;
      return XenbusState.closed;
    case XenbusState.closed:
      if (wantsClosed(view) || view.frontend !== XenbusState.initialising)
        return XenbusState.closed;
      return XenbusState.initWait;
    default:
      return view.own;
  }
}

function isReady(peer: XenbusState): boolean {
  return peer === XenbusState.connected || peer === XenbusState.initialised;
}

function wantsClosed(view: BackendView): boolean {
  return !view.online || !view.frontendPresent || view.frontend === XenbusState.closed;
}

/**
 * What a frontend wants: to be connected, to start anew and then be connected, or to be closed, be
 * it that its user gave it up or that its backend broke the rules.
 */
export type FrontendWish = 'open' | 'reopen' | 'closed';

/** What a frontend looks at to decide. */
export interface FrontendView {
  /** Our own state, as XenStore has it. */
  readonly own: XenbusState;
  readonly backend: XenbusState;
  /** The `online` node of the backend's directory: the toolstack wants the device. */
  readonly online: boolean;
  readonly wish: FrontendWish;
  /**
   * Our rings: none, announced to the backend, or established, which is when the backend was
   * Connected since. What XenStore announces while we have none is a former life's.
   */
  readonly rings: 'none' | 'announced' | 'established';
}

/** The frontend's state in the next single step; its own state when there is nothing to do. */
export function nextFrontendState(view: FrontendView): XenbusState {
  switch (view.own) {
    case XenbusState.initialising:
      if (view.wish === 'closed') return XenbusState.closed;
      if (view.backend === XenbusState.initWait) return XenbusState.connected;
      // A backend that closes for good waits for us; one that closes to start anew does not.
      if (view.backend === XenbusState.closing && !view.online) return XenbusState.closed;
      return XenbusState.initialising;
    case XenbusState.initialised:
    case XenbusState.connected:
      return backendServes(view) ? view.own : XenbusState.closing;
    case XenbusState.closing:
      // While the backend is connected it may have our pages mapped.
      return isReady(view.backend) ? XenbusState.closing : XenbusState.closed;
    case XenbusState.closed:
      return mayStartAnew(view) ? XenbusState.initialising : XenbusState.closed;
    default:
      return view.own;
  }
}

/** Whether the rings we have are ours, wanted, and served by the backend that they were made for. */
function backendServes(view: FrontendView): boolean {
  if (view.wish !== 'open' || view.rings === 'none') return false;
  if (isReady(view.backend)) return true;
  // Before the backend follows us it still offers; afterwards an offer means that it forgot us.
  return view.rings === 'announced' && view.backend === XenbusState.initWait;
}

function mayStartAnew(view: FrontendView): boolean {
  if (view.wish === 'closed' || !view.online) return false;
  if (view.backend === XenbusState.initialising || view.backend === XenbusState.initWait) {
    return true;
  }
  // A backend that closed waits for us to begin, but we do so only where we were told to.
  const isGone = view.backend === XenbusState.closed || view.backend === XenbusState.unknown;
  return view.wish === 'reopen' && isGone;
}
