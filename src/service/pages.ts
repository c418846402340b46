/** Lists a page at a time. A token says behind which key the next page starts, and nothing else. */
import { InvalidArgumentError } from '../errors.js';

export interface Page<T> {
  readonly items: T[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/**
 * Cuts a page out of `items`, which are in the order of their numeric keys.
 * @throws InvalidArgumentError PAGE_TOKEN_INVALID.
 */
export function pageOf<T>(
  items: readonly T[],
  keyOf: (item: T) => number,
  pageSize: number,
  pageToken: string,
): Page<T> {
  const after = parseToken(pageToken);
  const rest = items.filter((item) => keyOf(item) > after);
  const page = rest.slice(0, pageSize);
  const last = page.at(-1);
  const more = rest.length > page.length && last !== undefined;
  return { items: page, nextPageToken: more ? `after-${keyOf(last)}` : '' };
}

function parseToken(token: string): number {
  if (token === '') return -1;
  const match = /^after-(\d{1,15})$/.exec(token);
  if (match !== null) return Number(match[1]);
  throw new InvalidArgumentError(
    'PAGE_TOKEN_INVALID',
    'page_token',
    'The page token is none that this server gave.',
  );
}
