/** Etags of resources: they change whenever the message that shows the resource does. */
import { createHash } from 'node:crypto';
import { AbortedError } from '../errors.js';

const ETAG_LENGTH = 22;

/** The etag of a resource that is encoded, without its etag, as `message`. */
export function etagOf(message: Uint8Array): string {
  return createHash('sha256').update(message).digest('base64url').slice(0, ETAG_LENGTH);
}

/** `kind` is what the resource is, `vif` say. @throws AbortedError ETAG_MISMATCH. */
export function checkEtag(kind: string, name: string, present: string, wanted: string): void {
  if (wanted === '' || wanted === present) return;
  const text = `${name} has changed since its etag was read.`;
  throw new AbortedError('ETAG_MISMATCH', text, { [kind]: name });
}
