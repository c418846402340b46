"""Gives a guest a second interface, follows it, and takes it away again.

Usage: second_interface.py DOMID [--address unix:/run/xenvif/xenvifd.sock] [--keep]
"""

import argparse
import sys
import threading

from xenvif import Client, XenvifError

LABELS = {"made-by": "second-interface"}


def say(*words):
    """One line in one piece, for two threads speak."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def follow(client, domid, ready, events, failures):
    """Prints changes until it ends; what it fails of is the other thread's to tell."""
    try:
        print_changes(client, domid, ready, events)
    except XenvifError as error:
        failures.append(error)
    finally:
        ready.set()


def print_changes(client, domid, ready, events):
    """Prints every change of the guest's vifs that are ours, until one is deleted."""
    phases = client.message("VifStatus").DESCRIPTOR.fields_by_name["phase"].enum_type
    for event in client.VifService.WatchVifs(domid=domid, labels=LABELS):
        kind = event.WhichOneof("event")
        if kind == "synced":
            ready.set()
            continue
        vif = getattr(event, kind)
        phase = phases.values_by_number[vif.status.phase].name.replace("VIF_PHASE_", "").lower()
        say(kind, vif.name, phase, vif.status.reason)
        events.append(kind)
        if kind == "deleted":
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domid", type=int)
    parser.add_argument("--address")
    parser.add_argument("--keep", action="store_true", help="leave the interface where it is")
    options = parser.parse_args()
    with Client(options.address) as client:
        ready, events, failures = threading.Event(), [], []
        watcher = threading.Thread(
            target=follow, args=(client, options.domid, ready, events, failures), daemon=True
        )
        watcher.start()
        ready.wait(timeout=10)
        if failures:
            raise failures[0]
        rate = client.message("RateLimit", bytes_per_interval=50_000)
        vif = client.VifService.CreateVif(
            domid=options.domid,
            spec=client.message("VifSpec", mtu=1500, rate=rate),
            labels=LABELS,
        ).vif
        say("created", vif.name, vif.spec.mac)
        if options.keep:
            return 0
        client.VifService.DeleteVif(name=vif.name, etag="")
        watcher.join(timeout=15)
        return 0 if "deleted" in events else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except XenvifError as error:
        print(f"second_interface: {error}", file=sys.stderr)
        sys.exit(1)
