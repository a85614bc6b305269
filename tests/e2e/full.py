# SPDX-License-Identifier: GPL-3.0-or-later
"""Full tables: connections, rings, descriptors, memory, requests under way, the store. Whoever comes
then is refused with a count and an explanation or waits in the queue; those inside are woken and
answered all the while; and when there is room again, newcomers come in."""
import os, resource, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

ALICE = "alice@example.test"
PING = wbxml(Phone.ping_body(900))
FULL = 'roost_connections_refused_total{reason="table_full"}'


def section(name):
    print(f"# {name}", flush=True)


def said(s, words, since=0):
    return next((l for l in s.log[since:] if words in l), None)


def enter(s, device, wait=3):
    """A newcomer that asks for one thing: its connection when it was served, or None."""
    try:
        w = Wire(s, device=device)
        if w.post("FolderSync", FOLDER_SYNC_0, wait=wait).status == 200:
            return w
        w.close()
    except OSError:
        pass
    return None


def park(s, device, user=ALICE):
    w = Wire(s, user, device=device)
    assert w.ready().status == 200
    return w.send("Ping", PING)


def all_woken(s, wires, name):
    """One change wakes all of them; they sync nothing and would hear of it again: they stay quiet."""
    s.deliver("wakes")
    answers = [w.answer(10) for w in wires]
    return ok(all(ping_status(a) == "2" for a in answers), name, [a for a in answers if ping_status(a) != "2"][:3])


# ---- connections ---------------------------------------------------------------------------------
section("connections")
s = Server(sets=["core.shards=1", "core.connections_max=32"])
inside = [park(s, f"in{i}") for i in range(20)]
wait_for(lambda: s.parked() == 20)
idle = []
while len(idle) < 20 and (w := enter(s, f"idle{len(idle)}")):
    idle.append(w)
ok(len(idle) < 20 and len(inside) + len(idle) <= 32, "at core.connections_max nobody comes in any more", len(idle))
before = s.metrics()[FULL]
out = [enter(s, f"out{i}", 2) for i in range(10)]
equal((out, s.metrics()[FULL] - before), ([None] * 10, 10), "ten more are refused, and counted as ten")
equal(len([l for l in s.log if "core.connections_max" in l]), 1, "the log says so once, with the setting")
all_woken(s, inside, "those inside are woken")
ok(all(w.post("FolderSync", FOLDER_SYNC_0).status == 200 for w in inside), "and served on the same connection")
for w in idle:
    w.close()
wait_for(lambda: s.metrics()["roost_connections"] <= 20)
back = [enter(s, f"back{i}") for i in range(5)]
ok(all(back), "when some leave, newcomers come in", back)
equal(s.stop(), 0, "it ends in order")

# ---- rings and descriptors -------------------------------------------------------------------------
section("rings")
s = Server(sets=["core.shards=1", "core.connections_max=256", "core.ring_connections_max=32"])
s.metrics(), s.ctl_json("stats")  # (what they open is open now)
inside = [park(s, f"in{i}") for i in range(16)]
wait_for(lambda: s.parked() == 16)
limits = resource.prlimit(s.p.pid, resource.RLIMIT_NOFILE)
resource.prlimit(s.p.pid, resource.RLIMIT_NOFILE, (8, limits[1]))
more, waiting = [], None
while len(more) < 200:
    w = Wire(s, device=f"more{len(more)}").send("FolderSync", FOLDER_SYNC_0)
    if w.answer(1.5).status != 200:
        waiting = w
        break
    more.append(w)
ok(waiting and len(more) >= 16, "without a descriptor for another ring, only those of which there are some take phones", len(more))
ok(said(s, "no ring for more than") and said(s, "Too many open files"), "the log says so", s.log[-3:])
all_woken(s, inside, "those inside are woken all the same")
resource.prlimit(s.p.pid, resource.RLIMIT_NOFILE, limits)
ok(wait_for(lambda: enter(s, "later", 2), 15), "with descriptors again newcomers come in", s.log[-3:])
equal(s.stop(), 0, "it ends in order")

# ---- requests under way ------------------------------------------------------------------------------
section("requests under way")
s = Server(sets=["core.shards=1", "core.requests_in_flight_max=16", "http.request_timeout_s=60"])
inside = [park(s, f"in{i}") for i in range(30)]
ok(wait_for(lambda: s.parked() == 30), "30 hang where 16 may be under way")
slow = [Wire(s, device=f"slow{i}").send("FolderSync", FOLDER_SYNC_0, cut=40) for i in range(16)]
time.sleep(0.3)
late = Wire(s, device="late").send("FolderSync", FOLDER_SYNC_0)
all_woken(s, inside, "those that hang are woken while slow requests have all memory")
ok(late.silent(), "a request that comes then waits")
for w in slow:
    w.c.sendall(w.rest)
ok(all(w.answer(5).status == 200 for w in slow), "the slow ones are served when they are there")
equal(late.answer(10).status, 200, "and then the one that waited")
equal(s.stop(), 0, "it ends in order")

# ---- commands ----------------------------------------------------------------------------------------
section("commands")
s = Server(sets=["core.workers=1", "core.work_queue_max=1", "core.shards=1"])
inside = [park(s, f"in{i}") for i in range(10)]
wait_for(lambda: s.parked() == 10)
crowd = [Wire(s, device=f"c{i}") for i in range(100)]
for w in crowd:
    w.send("FolderSync", FOLDER_SYNC_0)
answers = [w.answer(10) for w in crowd]
full = [a for a in answers if a.status == 503]
ok(full and all(a.status in (200, 503) for a in answers), "some of a hundred commands at once are refused", {a.status for a in answers})
ok(all(30 <= int(a.headers["retry-after"]) <= 60 for a in full), "with Retry-After, spread", [a.headers.get("retry-after") for a in full][:5])
why = s.ctl("why", full[-1].headers["x-request-id"]).stdout.decode() if full else ""
ok("503" in why and "too many commands" in why, "roostctl why explains it", why)
equal(s.metrics()["roost_work_refused_total"], len(full), "each is counted")
all_woken(s, inside, "those that hang are woken")
equal(Wire(s, device="c0").post("FolderSync", FOLDER_SYNC_0).status, 200, "who comes again is served")
equal(s.stop(), 0, "it ends in order")

# ---- memory ------------------------------------------------------------------------------------------


def memory():
    section("memory")
    s = Server(sets=["core.shards=1", "log.requests=false", "store.map_mib=16"])
    inside = [park(s, f"in{i}") for i in range(50)]
    wait_for(lambda: s.parked() == 50)

    def size(key):
        with open(f"/proc/{s.p.pid}/status") as f:
            return next(int(l.split()[1]) * 1024 for l in f if l.startswith(key + ":"))

    limits = resource.prlimit(s.p.pid, resource.RLIMIT_AS)
    resource.prlimit(s.p.pid, resource.RLIMIT_AS, (size("VmSize") + (64 << 10), limits[1]))
    crowd, stuck = [], 0
    while len(crowd) < 300 and stuck < 5:
        w = Wire(s, device=f"m{len(crowd)}")
        crowd.append(w)
        w.c.settimeout(0.5)
        try:
            w.send("SendMail", b"x" * 1_000_000, cut=500_000)
        except TimeoutError:
            stuck += 1
        except OSError:
            pass
    ok(wait_for(lambda: stuck or any(not w.silent() for w in crowd), 5), "150 MB of unfinished requests find no room in 64 KB more", len(crowd))
    ok(s.p.poll() is None, "the server stands when it gets no more memory", s.log[-5:])
    ok(wait_for(lambda: s.metrics()["roost_no_memory_total"] > 0) and said(s, "no memory"), "who is refused or closed for want of it is counted, and the log has the reason", s.log[-5:])
    for w in crowd:
        w.close()
    resource.prlimit(s.p.pid, resource.RLIMIT_AS, limits)
    all_woken(s, inside, "those that hang were kept, and are woken")
    ok(wait_for(lambda: enter(s, "later"), 10), "newcomers are served when there is memory again")
    ok(wait_for(lambda: s.metrics()["roost_connections"] <= 52, 10), "nothing of the others is left")
    equal(s.stop(), 0, "it ends in order")


# (a sanitizer has address space without end)
if not re.search("-(address|thread)", BIN):
    memory()

# ---- the store ---------------------------------------------------------------------------------------
section("store")
s = Server(users=())
s.sets += ["store.map_mib=1", "store.map_max_mib=4"]
shutil.rmtree(s.dir)
os.mkdir(s.dir)
s.stop()
s.start()
for user in (ALICE, "bob@example.test"):
    s.ctl("user", "add", user, "--password-stdin", input="secret", check=True)
p = Phone(s, "bob@example.test").ready()
h = p.hang_ping()
message = b"Subject: big\r\n\r\n" + (b"y" * 76 + b"\r\n") * 5000
codes = []
while len(codes) < 40 and (not codes or codes[-1] == 0):
    codes.append(s.ctl("deliver", ALICE, input=message).returncode)
out = s.ctl("deliver", ALICE, input=message)
ok(codes[0] == 0 and out.returncode == 1 and b"store.map_max_mib" in out.stderr,
   "roostctl with no configuration of its own stops at the server's store.map_max_mib", (codes, out))
equal(s.metrics()["roost_store_map_bytes"], 4 << 20, "the map is no larger")
left = 0
while left < 2000 and s.ctl("deliver", ALICE, input=b"Subject: small\r\n\r\n" + b"x" * 500).returncode == 0:
    left += 1
refused = None
for i in range(2000):  # (small records find a place for a while)
    w = Wire(s, device=f"new{i}")
    a = w.post("FolderSync", FOLDER_SYNC_0)
    w.close()
    if a.status != 200 or b"\x03113\0" in a.body:
        refused = a
        break
equal(refused and (refused.status, refused.xml["Status"]), (200, "113"), "a new device for which there is no place is told so: 113, the user's space is full")
why = s.ctl("why", refused.headers["x-request-id"]).stdout.decode() if refused else ""
ok("store.map_max_mib" in why, "roostctl why explains it, and names the setting", why)
ok(h.p.poll() is None and s.parked() == 1, "who hangs goes on hanging")
s.stop()
s.sets[-1] = "store.map_max_mib=64"
s.start()
equal(s.ctl("deliver", ALICE, input=message).returncode, 0, "with a larger limit there is room, for roostctl too")
w = Wire(s, device="new")
equal(w.post("FolderSync", FOLDER_SYNC_0).status, 200, "and new devices come in")
equal(s.stop(), 0, "it ends in order")
done()
