import { describe, expect, test } from 'vitest';
import * as ctrl from '../../../src/ring/netif-ctrl.js';
import * as extra from '../../../src/ring/netif-extra.js';
import * as rx from '../../../src/ring/netif-rx.js';
import * as tx from '../../../src/ring/netif-tx.js';
import { ringSize } from '../../../src/ring/shared-ring.js';
import { Page } from '../../../src/xen/page.js';
import headers from '../../golden/xen-headers.json' with { type: 'json' };

/** Slot 0 of a page, and a view of it that reads where Xen's own headers say a field is. */
function slotZero() {
  const buffer = new ArrayBuffer(4096);
  return { page: new Page(buffer), view: new DataView(buffer) };
}

describe('slots lie where Xen’s headers have them', () => {
  const { constants } = headers;

  test('sizes and ring entries', () => {
    expect(tx.TX_SLOT_BYTES).toBe(headers.netif_tx_sring.entry_size);
    expect(rx.RX_SLOT_BYTES).toBe(headers.netif_rx_sring.entry_size);
    expect(ringSize(tx.TX_SLOT_BYTES)).toBe(headers.netif_tx_sring.entries);
    expect(ringSize(rx.RX_SLOT_BYTES)).toBe(headers.netif_rx_sring.entries);
  });

  test('flags, statuses and extra types', () => {
    expect([tx.TX_CSUM_BLANK, tx.TX_DATA_VALIDATED, tx.TX_MORE_DATA, tx.TX_EXTRA_INFO]).toEqual([
      constants.XEN_NETTXF_csum_blank,
      constants.XEN_NETTXF_data_validated,
      constants.XEN_NETTXF_more_data,
      constants.XEN_NETTXF_extra_info,
    ]);
    expect([rx.RX_CSUM_BLANK, rx.RX_DATA_VALIDATED, rx.RX_MORE_DATA, rx.RX_EXTRA_INFO]).toEqual([
      constants.XEN_NETRXF_csum_blank,
      constants.XEN_NETRXF_data_validated,
      constants.XEN_NETRXF_more_data,
      constants.XEN_NETRXF_extra_info,
    ]);
    expect([tx.RSP_OKAY, tx.RSP_ERROR, tx.RSP_DROPPED, tx.RSP_NULL]).toEqual([
      constants.XEN_NETIF_RSP_OKAY,
      constants.XEN_NETIF_RSP_ERROR,
      constants.XEN_NETIF_RSP_DROPPED,
      constants.XEN_NETIF_RSP_NULL,
    ]);
    expect([extra.EXTRA_TYPE_GSO, extra.EXTRA_TYPE_MAX, extra.EXTRA_FLAG_MORE]).toEqual([
      constants.XEN_NETIF_EXTRA_TYPE_GSO,
      constants.XEN_NETIF_EXTRA_TYPE_MAX,
      constants.XEN_NETIF_EXTRA_FLAG_MORE,
    ]);
    expect([extra.GSO_TYPE_TCPV4, extra.GSO_TYPE_TCPV6]).toEqual([
      constants.XEN_NETIF_GSO_TYPE_TCPV4,
      constants.XEN_NETIF_GSO_TYPE_TCPV6,
    ]);
  });

  test('a TX request, written and read', () => {
    const { page, view } = slotZero();
    const request = { gref: 0xfffffffe, offset: 4094, flags: 0xabcd, id: 65534, size: 65533 };
    tx.writeTxRequest(page, 0, request);
    const { netif_tx_request: at } = headers;
    expect(view.getUint32(at.gref, true)).toBe(request.gref);
    expect(view.getUint16(at.offset, true)).toBe(request.offset);
    expect(view.getUint16(at.flags, true)).toBe(request.flags);
    expect(view.getUint16(at.id, true)).toBe(request.id);
    expect(view.getUint16(at.length, true)).toBe(request.size);
    const copy = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
    const words = new Uint32Array(3);
    page.readWords(0, words, 0, words.length);
    tx.readTxRequest(words, 0, copy);
    expect(copy).toEqual(request);
  });

  test('a TX response covers the whole slot', () => {
    const { page, view } = slotZero();
    page.bytes.fill(0xee);
    tx.writeTxResponse(page, 0, 0x1234, tx.RSP_ERROR);
    const { netif_tx_response: at } = headers;
    expect(view.getUint16(at.id, true)).toBe(0x1234);
    expect(view.getInt16(at.status, true)).toBe(-1);
    expect([...page.bytes.subarray(4, 12)]).toEqual(new Array(8).fill(0));
    expect(page.bytes[12]).toBe(0xee);
    const word = page.readU32(0);
    expect([tx.readTxResponseId(word), tx.readTxResponseStatus(word)]).toEqual([0x1234, -1]);
  });

  test('RX requests and responses, written and read', () => {
    const { page, view } = slotZero();
    rx.writeRxRequest(page, 0, 511, 0xdeadbeef);
    expect(view.getUint16(headers.netif_rx_request.id, true)).toBe(511);
    expect(view.getUint32(headers.netif_rx_request.gref, true)).toBe(0xdeadbeef);
    expect([rx.readRxRequestId(page, 0), rx.readRxRequestGref(page, 0)]).toEqual([511, 0xdeadbeef]);

    rx.writeRxResponse(page, 0, 7, 64, rx.RX_MORE_DATA, -2);
    const { netif_rx_response: at } = headers;
    expect(view.getUint16(at.id, true)).toBe(7);
    expect(view.getUint16(at.offset, true)).toBe(64);
    expect(view.getUint16(at.flags, true)).toBe(rx.RX_MORE_DATA);
    expect(view.getInt16(at.status, true)).toBe(-2);
    const response = { id: 0, offset: 0, flags: 0, status: 0 };
    rx.readRxResponse(page, 0, response);
    expect(response).toEqual({ id: 7, offset: 64, flags: rx.RX_MORE_DATA, status: -2 });
  });

  test('a GSO extra', () => {
    const { page, view } = slotZero();
    const { netif_extra_info: at } = headers;
    view.setUint8(at.type, extra.EXTRA_TYPE_GSO);
    view.setUint8(at.flags, extra.EXTRA_FLAG_MORE);
    view.setUint16(at['u.gso.size'], 1448, true);
    view.setUint8(at['u.gso.type'], extra.GSO_TYPE_TCPV6);
    const copy = extra.emptyExtra();
    extra.readExtra(page, 0, copy);
    expect(copy).toMatchObject({ type: 1, flags: 1, gsoSize: 1448, gsoType: 2 });
    const written = slotZero();
    extra.writeGsoExtra(written.page, 0, extra.EXTRA_FLAG_MORE, 1448, extra.GSO_TYPE_TCPV6);
    expect(written.page.bytes).toEqual(page.bytes);
  });

  test('an extra that adds a multicast address', () => {
    const { page, view } = slotZero();
    const { netif_extra_info: at } = headers;
    extra.writeMulticastExtra(page, 0, extra.EXTRA_TYPE_MCAST_ADD, 0x0100, 0x5e7f_fffa);
    expect(view.getUint8(at.type)).toBe(headers.constants.XEN_NETIF_EXTRA_TYPE_MCAST_ADD);
    const start = at['u.mcast.addr'];
    expect([...page.bytes.subarray(start, start + 6)]).toEqual([1, 0, 0x5e, 0x7f, 0xff, 0xfa]);
    const copy = extra.emptyExtra();
    extra.readExtra(page, 0, copy);
    expect(copy).toMatchObject({ addressHigh: 0x0100, addressLow: 0x5e7f_fffa });
  });

  test('a hash extra', () => {
    const { page, view } = slotZero();
    const { netif_extra_info: at } = headers;
    extra.writeHashExtra(page, 0, 0, 2, 1, 0x8899_aabb);
    expect(view.getUint8(at.type)).toBe(headers.constants.XEN_NETIF_EXTRA_TYPE_HASH);
    expect(view.getUint8(at['u.hash.type'])).toBe(2);
    expect(view.getUint8(at['u.hash.algorithm'])).toBe(1);
    expect(view.getUint32(at['u.hash.value'], true)).toBe(0x8899_aabb);
  });

  test('control requests and responses, written and read', () => {
    const { page, view } = slotZero();
    expect(ringSize(ctrl.CTRL_SLOT_BYTES)).toBe(headers.netif_ctrl_sring.entries);
    const request = { id: 0xfffe, type: 6, data0: 0xfffffff0, data1: 128, data2: 0x80000000 };
    ctrl.writeCtrlRequest(page, 0, request);
    const { netif_ctrl_request: at } = headers;
    expect(view.getUint16(at.id, true)).toBe(request.id);
    expect(view.getUint16(at.type, true)).toBe(request.type);
    expect(view.getUint32(at.data, true)).toBe(request.data0);
    expect(view.getUint32(at.data + 8, true)).toBe(request.data2);
    const copy = { id: 0, type: 0, data0: 0, data1: 0, data2: 0 };
    ctrl.readCtrlRequest(page, 0, copy);
    expect(copy).toEqual(request);
    page.bytes.fill(0xee);
    ctrl.writeCtrlResponse(page, 0, 7, 4, ctrl.CTRL_STATUS_BUFFER_OVERFLOW, 128);
    const { netif_ctrl_response: answer } = headers;
    expect(view.getUint16(answer.id, true)).toBe(7);
    expect(view.getUint16(answer.type, true)).toBe(4);
    expect(view.getUint32(answer.status, true)).toBe(
      headers.constants.XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW,
    );
    expect(view.getUint32(answer.data, true)).toBe(128);
    expect([...page.bytes.subarray(12, 16)]).toEqual([0, 0, 0, 0]);
    expect(page.bytes[16]).toBe(0xee);
  });
});
