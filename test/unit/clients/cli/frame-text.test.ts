import { describe, expect, it } from 'vitest';
import { summarize } from '../../../../clients/cli/src/frame-text.js';

const MACS = '00163e00000200163e000001';
const IPV4 = '4500001c0001000040012ede0a0000010a000002';

const text = (hex: string): string => summarize(Buffer.from(hex, 'hex')).text;

describe('a frame in one line', () => {
  it('has its addresses', () => {
    expect(summarize(Buffer.from(`${MACS}0800${IPV4}`, 'hex'))).toMatchObject({
      source: '00:16:3e:00:00:01',
      destination: '00:16:3e:00:00:02',
      etherType: 'IPv4',
    });
  });

  it.each([
    [
      `${MACS}0806000108000604000100163e0000010a0000010000000000000a000002`,
      'ARP who-has 10.0.0.2 tell 10.0.0.1',
    ],
    [
      `${MACS}0806000108000604000200163e0000010a00000100163e0000020a000002`,
      'ARP 10.0.0.1 is-at 00:16:3e:00:00:01',
    ],
    [`${MACS}0800${IPV4}0800f7fd00010005`, 'IPv4 10.0.0.1 > 10.0.0.2 ICMP echo request id 1 seq 5'],
    [`${MACS}0800${IPV4}0303f7fd00010005`, 'IPv4 10.0.0.1 > 10.0.0.2 ICMP unreachable'],
    [
      `${MACS}8100006408004500001c00010000401100000a0000010a0000020035d43100080000`,
      'vlan 100 IPv4 10.0.0.1:53 > 10.0.0.2:54321 UDP',
    ],
    [
      `${MACS}08004500002800010000400600000a0000010a000002005004d2000000070000000050120000`,
      'IPv4 10.0.0.1:80 > 10.0.0.2:1234 TCP SYN+ACK seq 7',
    ],
    [
      `${MACS}08004500002800012001400600000a0000010a000002`,
      'IPv4 10.0.0.1 > 10.0.0.2 TCP fragment at 8',
    ],
    [
      `${MACS}86dd6000000000083afffe800000000000000000000000000001ff0200000000000000000000000000028000000000010002`,
      'IPv6 fe80::1 > ff02::2 ICMPv6 echo request id 1 seq 2',
    ],
    [`${MACS}88b5abcd`, '0x88b5'],
    [`${MACS}0026424203`, '802.3'],
  ])('says what is in %s', (hex, expected) => {
    expect(text(hex)).toBe(expected);
  });

  it('says so wherever it is cut', () => {
    const whole = `${MACS}81000064${`0800${IPV4}`}0800f7fd00010005`;
    for (let length = 0; length < whole.length / 2; length += 1) {
      expect(() => text(whole.slice(0, length * 2))).not.toThrow();
    }
    expect(text('0016')).toBe('[cut off]');
    expect(text(`${MACS}08004500`)).toBe('IPv4 [cut off]');
  });
});
