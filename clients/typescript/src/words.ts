/**
 * Enumerations as words. Generated code has them as numbers, which read badly in programs and in
 * JSON; the SDK shows `connected` where the contract says `VIF_PHASE_CONNECTED`.
 */

type Kebab<T extends string> = T extends `${infer Head}_${infer Tail}`
  ? `${Lowercase<Head>}-${Kebab<Tail>}`
  : Lowercase<T>;

/** The words of a generated enumeration. */
export type WordOf<E extends Readonly<Record<string, number>>> = Kebab<keyof E & string>;

/** The word for `value`; `unspecified` for one that a newer daemon sends and this SDK does not know. */
export function wordOf<E extends Readonly<Record<string, number>>>(
  enumeration: E,
  value: number,
): WordOf<E> {
  for (const [key, candidate] of Object.entries(enumeration)) {
    if (candidate === value) return key.toLowerCase().replaceAll('_', '-') as WordOf<E>;
  }
  return 'unspecified' as WordOf<E>;
}
