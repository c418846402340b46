import { describe, expect, test } from 'vitest';
import type { StorePermissions } from '../../../../src/xen/xen.js';
import { emitPermissions, parsePermissions } from '../../../../src/xen/xenstore/permissions.js';

describe('permissions on the wire', () => {
  const cases: [string, StorePermissions][] = [
    ['n0\0', { owner: 0, others: 'n' }],
    ['b65535\0', { owner: 65_535, others: 'b' }],
    [
      'n5\0r0\0w7\0',
      {
        owner: 5,
        others: 'n',
        domains: [
          { domid: 0, access: 'r' },
          { domid: 7, access: 'w' },
        ],
      },
    ],
  ];

  test.each(cases)('%j goes both ways', (text, permissions) => {
    expect(parsePermissions(Buffer.from(text))).toEqual(permissions);
    expect(emitPermissions(permissions).toString()).toBe(text);
  });

  test('anything else is EINVAL', () => {
    const bad = [
      '',
      '\0',
      'n0',
      'x0\0',
      'n\0',
      'n-1\0',
      'n0x1\0',
      'n65536\0',
      'n00\0',
      'N0\0',
      'n0\0\0',
      'n 0\0',
    ];
    for (const text of bad) {
      const parse = () => parsePermissions(Buffer.from(text));
      expect(parse, JSON.stringify(text)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    }
    for (const owner of [-1, 65_536, 1.5, Number.NaN]) {
      expect(() => emitPermissions({ owner, others: 'n' })).toThrow('no XenStore permission');
    }
  });
});
