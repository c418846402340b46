"""A station of a VLAN that tags its frames by itself (IEEE 802.1Q), on a kernel without VLAN interfaces.

    vlan_station.py INTERFACE VLAN IP serve        answers ARP and pings
    vlan_station.py INTERFACE VLAN IP ping OTHER   finds OTHER by ARP, pings it, and prints what came

The kernel takes the tag of a received frame out and tells it beside the frame (packet(7), auxdata).
"""
import socket
import struct
import sys
import time

SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 1 << 4
BROADCAST = b"\xff" * 6
PATIENCE_S = 5


class Station:
    def __init__(self, interface, vlan, ip):
        self.vlan = vlan
        self.ip = socket.inet_aton(ip)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.bind((interface, 0))
        self.mac = self.socket.getsockname()[4]

    def send(self, destination, ethertype, payload):
        tag = struct.pack(">HH", 0x8100, self.vlan)
        frame = destination + self.mac + tag + struct.pack(">H", ethertype) + payload
        self.socket.send(frame.ljust(60, b"\0"))

    def receive(self):
        """The source, type and payload of the next frame of our VLAN that others sent."""
        while True:
            frame, extra, _, address = self.socket.recvmsg(65535, 1024)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            for level, kind, data in extra:
                if (level, kind) != (SOL_PACKET, PACKET_AUXDATA):
                    continue
                status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data[:20])
                if status & TP_STATUS_VLAN_VALID and tci & 0xFFF == self.vlan:
                    return frame[6:12], frame[12:14], frame[14:]

    def arp(self, operation, mac, ip):
        header = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        target = b"\0" * 6 if operation == 1 else mac
        self.send(mac, 0x0806, header + self.mac + self.ip + target + ip)

    def echo(self, kind, mac, ip, rest):
        icmp = bytes([kind, 0, 0, 0]) + rest
        icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0) + self.ip + ip
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
        self.send(mac, 0x0800, header + icmp)

    def answer(self, source, ethertype, payload):
        """Answers what is asked of us; returns the kind of what is told to us, and what it says."""
        if ethertype == b"\x08\x06" and payload[24:28] == self.ip:
            if payload[7] == 1:
                self.arp(2, source, payload[14:18])
            return "arp", payload[14:18], source
        if ethertype == b"\x08\x00" and payload[9] == 1 and payload[16:20] == self.ip:
            icmp = payload[20 : struct.unpack(">H", payload[2:4])[0]]
            if icmp[0] == 8:
                self.echo(0, source, payload[12:16], icmp[4:])
            elif icmp[0] == 0:
                return "reply", payload[12:16], icmp[4:]
        return None, None, None


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def serve(station):
    print("ready", flush=True)
    while True:
        station.answer(*station.receive())


def ping(station, other):
    other = socket.inet_aton(other)
    rest = struct.pack(">HH", 77, 1) + bytes(range(56))
    station.socket.settimeout(PATIENCE_S)
    station.arp(1, BROADCAST, other)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        kind, who, what = station.answer(*station.receive())
        if who != other:
            continue
        if kind == "arp":
            station.echo(8, what, other, rest)
        elif kind == "reply" and what == rest:
            print("1 received")
            return
    sys.exit("no answer")


if __name__ == "__main__":
    own = Station(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    if sys.argv[4] == "serve":
        try:
            serve(own)
        except OSError:
            pass  # The interface is gone, and with it what there was to do.
    else:
        ping(own, sys.argv[5])
