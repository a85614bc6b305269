# SPDX-License-Identifier: GPL-3.0-or-later
"""Direct Push by curl: every Ping status with its condition, wakes, what does not wake."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

s = Server(users=("alice@example.test", "bob@example.test"), sets=["push.heartbeat_min_s=2"])
p = Phone(s)

# ---- statuses that are answered at once, in the order of the checks -----------------------------------
equal(p.ping().xml["Status"], "7", "a device that never did a FolderSync gets 7")
equal(p.post("Ping").xml["Status"], "3", "an empty Ping with nothing remembered gets 3")
p.ready(("1", "3"))
equal(p.post("Ping").xml["Status"], "3", "after FolderSync an empty Ping with nothing remembered still gets 3")
equal(p.post("Ping", p.ping_body(60, None)).xml["Status"], "3", "interval without folders gets 3")
equal(p.post("Ping", p.ping_body(None, ("1",))).xml["Status"], "3", "folders without interval get 3")
equal(p.post("Ping", "<Ping:Ping/>").xml["Status"], "4", "an empty Ping element gets 4")
equal(p.ping(60, ("1", "1")).xml["Status"], "4", "the same folder twice gets 4")
equal(p.ping(60, ("1",), "Fruit").xml["Status"], "4", "an unknown class gets 4")
equal(p.ping("soon").xml["Status"], "4", "an interval that is no number gets 4")
equal(p.post("Ping", "<AirSync:Sync/>").xml["Status"], "4", "another document gets 4")
equal(p.post("Ping", b"\x03\x01\x6a\x00\x45").xml["Status"], "102", "truncated WBXML gets 102 from 14.0 on")
old = Phone(s, device="phone1", version="12.1")
equal(old.post("Ping", b"\x03\x01\x6a\x00\x45").status, 400, "truncated WBXML is HTTP 400 at 12.1")
a = p.ping(1).xml
equal((a["Status"], a["HeartbeatInterval"]), ("5", "2"), "a short interval gets 5 with the minimum")
a = p.ping(-5).xml
equal((a["Status"], a["HeartbeatInterval"]), ("5", "2"), "a negative interval gets 5 with the minimum")
a = p.ping(3541).xml
equal((a["Status"], a["HeartbeatInterval"]), ("5", "3540"), "a long interval gets 5 with the maximum")
a = p.ping(60, [str(i) for i in range(1, 1001)]).xml
equal((a["Status"], a["MaxFolders"]), ("6", "200"), "1,000 folders get 6 with the limit")
equal(p.ping(1, [str(i) for i in range(1, 1001)]).xml["Status"], "5", "the interval is checked before the folder count")
equal(p.ping(60, ("1", "4711")).xml["Status"], "7", "an unknown folder gets 7")
equal(p.ping(60, ("nonsense",)).xml["Status"], "7", "an Id that was never ours gets 7")
equal(p.post("Ping").xml["Status"], "3", "refused requests remember nothing")

# ---- waiting, and what ends it -------------------------------------------------------------------------
h = p.hang_ping(3)
a = h.answer()
ok(a.xml["Status"] == "1" and 1.5 <= a.seconds <= 4.5, "nothing happens: 1 at the end of the interval",
   f"{a} after {a.seconds}")
h = p.hang_ping(60, ("1", "3"))
rows = s.ctl_json("ping", "list")
ok(len(rows) == 1 and "phone1" in str(rows) and "127.0.0.1" in str(rows), "ping list shows who is parked", rows)
s.deliver("one")
a = h.answer()
equal((a.xml["Status"], [n.text for n in a.xml.all("Folders/Folder")]), ("2", ["1"]), "new mail: 2 with exactly that folder")
ok(a.headers.get("content-type") == TYPE and "x-request-id" in a.headers, "the answer has its type and request id", a)
a = p.ping(60)
equal(a.xml["Status"], "2", "not synced yet: the next Ping says 2 at once")
p.sync_all()
h = p.hang("Ping")
ok(wait_for(lambda: s.parked() == 1), "an empty Ping uses what was remembered and hangs")
s.deliver("two")
equal(h.answer().xml["Status"], "2", "and is woken")
ids = p.sync_all()

h = p.hang_ping(60, ("3",))
s.deliver("three")
time.sleep(0.3)
ok(h.p.poll() is None, "mail in another folder does not wake")
s.ctl("change", "alice@example.test", "Deleted Items", check=True)
a = h.answer()
equal((a.xml["Status"], a.xml["Folders/Folder"]), ("2", "3"), "roostctl change wakes whoever waits for that folder")
p.sync_all()

h = p.hang_ping(60)
p.sync(inner=f"<Commands><Change><ServerId>{ids[0]}</ServerId><ApplicationData><Email:Read>1</Email:Read></ApplicationData></Change></Commands>")
time.sleep(3.5)
ok(h.p.poll() is None, "the device's own changes do not wake it")
q = Phone(s, device="phone2").ready()
q.sync(inner=f"<Commands><Change><ServerId>{ids[0]}</ServerId><ApplicationData><Email:Read>0</Email:Read></ApplicationData></Change></Commands>")
equal(h.answer().xml["Status"], "2", "another device's change wakes it")
p.sync_all()

# one arrival and one removal do not cancel out
h = p.hang_ping(60)
q_ids = q.sync_all()
s.deliver("in")
equal(h.answer().xml["Status"], "2", "an arrival wakes")
new = q.sync_all()
q.sync(inner="<DeletesAsMoves>0</DeletesAsMoves><Commands>" + "".join(f"<Delete><ServerId>{i}</ServerId></Delete>" for i in new) + "</Commands>")
p.sync_all()

# ---- newest wins ------------------------------------------------------------------------------------------
h1 = p.hang_ping(60)
h2 = p.hang("Ping", p.ping_body(60))
a = h1.answer(5)
ok(a.xml is not None and a.xml["Status"] == "1" and a.seconds < 4, "a newer Ping ends the older one at once with 1", a)
ok(wait_for(lambda: s.parked() == 1), "one of them hangs")
other = Phone(s, "bob@example.test", device="phone1").ready()
h3 = other.hang_ping(60)
ok(h2.p.poll() is None and s.parked() == 2, "another user's device of the same name is another device")
h2.hang_up()
ok(wait_for(lambda: s.parked() == 1, 3), "a hang-up frees the slot at once")
s.ctl("user", "disable", "bob@example.test", check=True)
a = h3.answer(5)
ok(a.status in (200, 403), "disabling the account ends its Ping at once", a)
equal(other.ping().status, 403, "and its next request gets 403")
s.ctl("user", "enable", "bob@example.test", check=True)
h = other.hang_ping(60)
s.ctl("device", "remove", "phone1", "-u", "bob@example.test", check=True)
ok(h.answer(5).status == 200, "removing the device ends its Ping at once")
equal(other.ping().xml["Status"], "7", "and the device begins anew")

# ---- restart -----------------------------------------------------------------------------------------------
p.sync_all()
h = p.hang_ping(60)
code = s.stop()
a = h.answer(5)
equal((code, a.xml["Status"] if a.xml else None, a.headers.get("connection")), (0, "1", "close"),
      "SIGTERM answers parked Pings with 1 and ends in order")
s.start()
h = p.hang("Ping")
ok(wait_for(lambda: s.parked() == 1), "the remembered Ping survived the restart")
s.deliver("after restart")
equal(h.answer().xml["Status"], "2", "and is woken")

# ---- heartbeats that would end together -----------------------------------------------------------------------
many = Server(sets=["core.shards=1", "push.expiries_per_second_max=1"])
phones = [Phone(many, device=f"many{i}").ready() for i in range(5)]
hanging = [x.hang("Ping", x.ping_body(600)) for x in phones]
ok(wait_for(lambda: many.parked() == 5), "five phones hang at once")
rows = many.ctl_json("ping", "list")
due = sorted(r["due_ms"] for r in rows)
moved = [r for r in rows if r["due_ms"] < r["since_ms"] + 598500]
ok(all(b - a >= 1000 for a, b in zip(due, due[2:])) and
   all(r["since_ms"] + 538000 <= r["due_ms"] <= r["since_ms"] + 600000 for r in rows),
   "one heartbeat ends in a second, none late, none more than a tenth early", rows)
equal(many.metrics()["roost_heartbeats_shortened_total"], len(moved), "those moved are counted")
many.stop()

# ---- explanations -------------------------------------------------------------------------------------------
a = Phone(s, password="wrong").ping()
out = s.ctl("why", a.headers["x-request-id"])
ok(a.status == 401 and out.returncode == 0 and b"password" in out.stdout, "roostctl why explains a refusal", out)
m = s.metrics()
ok(m['roost_wake_latency_seconds_count'] > 0 and m['roost_wakes_total{reason="change"}'] > 0, "metrics count wakes and their latency", m)
ok(wait_for(lambda: all(a == b for a, b in s.books()), 5) and s.books()[1][0] > 0,
   "connections and hanging requests are all accounted for", s.books())
ok(m['roost_connections_closed_total{by="peer"}'] > 0, "a client that closes is counted as such", m)
done()
