/**
 * Bytes that arrived in order and wait for the reader: gathered in pieces of memory that are handed on
 * without a further copy, one piece for all that came together.
 */
const PIECE_BYTES_MIN = 2 * 1024;
const PIECE_BYTES_MAX = 64 * 1024;

export class ReceiveBuffer {
  #pieces: Buffer[] = [];
  #piece = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  #pieceBytes = PIECE_BYTES_MIN;
  /** Bytes that wait. */
  length = 0;

  append(bytes: Uint8Array, offset: number, count: number): void {
    let from = offset;
    let left = count;
    while (left > 0) {
      if (this.#end === this.#piece.length) this.#nextPiece(left);
      const part = Math.min(left, this.#piece.length - this.#end);
      this.#piece.set(bytes.subarray(from, from + part), this.#end);
      this.#end += part;
      from += part;
      left -= part;
    }
    this.length += count;
  }

  /** The oldest bytes, which are the caller's from now on; undefined where none wait. */
  take(): Buffer | undefined {
    const piece = this.#pieces.shift();
    if (piece !== undefined) {
      this.length -= piece.length;
      return piece;
    }
    if (this.#start === this.#end) return undefined;
    const last = this.#piece.subarray(this.#start, this.#end);
    this.#start = this.#end;
    this.length -= last.length;
    // Memory follows the pace: a slow connection keeps little of it.
    const wanted = Math.min(PIECE_BYTES_MAX, Math.max(PIECE_BYTES_MIN, last.length * 4));
    this.#pieceBytes = wanted;
    if (this.#piece.length > wanted * 4) this.#forgetPiece();
    return last;
  }

  clear(): void {
    this.#pieces = [];
    this.#forgetPiece();
    this.length = 0;
  }

  #nextPiece(wanted: number): void {
    if (this.#end > this.#start) this.#pieces.push(this.#piece.subarray(this.#start, this.#end));
    const size = Math.min(PIECE_BYTES_MAX, Math.max(this.#pieceBytes, wanted));
    this.#pieceBytes = Math.min(PIECE_BYTES_MAX, this.#pieceBytes * 2);
    this.#piece = Buffer.allocUnsafeSlow(size);
    this.#start = 0;
    this.#end = 0;
  }

  #forgetPiece(): void {
    this.#piece = Buffer.alloc(0);
    this.#start = 0;
    this.#end = 0;
  }
}
