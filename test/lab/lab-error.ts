/** Any failure of the lab itself, told in one line: what failed, why, and where to read more. */
export class LabError extends Error {
  override readonly name = 'LabError';
  readonly code = 'LAB_FAILED';
}

/** Returns the message of whatever was thrown, without its stack and on one line. */
export function oneLine(fault: unknown): string {
  const text = fault instanceof Error ? fault.message : String(fault);
  return text.trim().replace(/\s*\n\s*/g, '; ');
}
