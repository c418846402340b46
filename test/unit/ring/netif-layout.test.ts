import { describe, expect, test } from 'vitest';
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
    tx.readTxRequest(page, 0, copy);
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
    const copy = { type: 0, flags: 0, gsoSize: 0, gsoType: 0 };
    extra.readExtra(page, 0, copy);
    expect(copy).toEqual({ type: 1, flags: 1, gsoSize: 1448, gsoType: 2 });
  });
});
