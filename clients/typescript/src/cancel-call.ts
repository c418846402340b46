/** The end of a call that nobody wants any more. */

/**
 * Cancels a call of grpc-js for good. One that is cancelled in the turn in which it is made is over for
 * its caller, but grpc-js is just about to hand it on, does so, and forgets it: the daemon would have it
 * open for as long as the connection lasts. By the next turn it can be cancelled there.
 */
export function cancelCall(call: { cancel(): void }): void {
  call.cancel();
  setImmediate(() => call.cancel());
}
