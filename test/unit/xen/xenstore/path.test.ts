import { describe, expect, test } from 'vitest';
import { checkPath, isWithin, parentPath, pathProblem } from '../../../../src/xen/xenstore/path.js';

describe('paths of XenStore nodes', () => {
  test('absolute and relative paths of the allowed characters pass', () => {
    const upToTheLimit = `/${'x'.repeat(3071)}`;
    const paths = [
      '/',
      '/a',
      '/local/domain/0/backend/vif/1/0',
      'device/vif/0/mac',
      '/a-b_c@d',
      '-',
      upToTheLimit,
    ];
    for (const path of paths) {
      expect(pathProblem(path), path).toBeUndefined();
    }
  });

  test('everything else is refused with a reason', () => {
    expect(pathProblem('')).toBe('is empty');
    expect(pathProblem('/a/')).toBe('ends with a slash');
    expect(pathProblem('//')).toBe('has a double slash');
    expect(pathProblem('/a//b')).toBe('has a double slash');
    expect(pathProblem(`/${'x'.repeat(3072)}`)).toBe('is longer than 3072 bytes');
    expect(pathProblem('x'.repeat(2049))).toMatch('is longer than 2048 bytes below');
    expect(pathProblem(`/local/domain/12/${'x'.repeat(2049)}`)).toMatch('below the domain');
    expect(pathProblem(`/local/domain/12/${'x'.repeat(2048)}`)).toBeUndefined();
    for (const character of ['.', '+', ':', ' ', '\0', '\n', '%', 'ä', '\u{1f980}', '\\', '*']) {
      expect(pathProblem(`/a${character}b`), character).toMatch('has a character');
    }
  });

  test('a way up is no path, for dots are not allowed', () => {
    expect(pathProblem('/local/domain/1/../2')).toMatch('has a character');
  });

  test('special watches are paths only where they are allowed', () => {
    expect(pathProblem('@releaseDomain')).toMatch('begins with @');
    expect(pathProblem('@releaseDomain', 'special allowed')).toBeUndefined();
  });

  test('the refusal is EINVAL and quotes the path, but not all of a long one', () => {
    expect(() => checkPath('/a b')).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(() => checkPath('/a b')).toThrow('"/a b"');
    try {
      checkPath(`/${'y'.repeat(100_000)}`);
    } catch (error) {
      expect(String(error).length).toBeLessThan(400);
    }
    expect.assertions(3);
  });

  test('a path lies within itself and those above, not beside', () => {
    expect(isWithin('/a/b', '/a')).toBe(true);
    expect(isWithin('/a', '/a')).toBe(true);
    expect(isWithin('/a', '/')).toBe(true);
    expect(isWithin('/ab', '/a')).toBe(false);
    expect(isWithin('/a', '/a/b')).toBe(false);
    expect([parentPath('/a/b'), parentPath('/a'), parentPath('/')]).toEqual(['/a', '/', '/']);
  });
});
