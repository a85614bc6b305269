# SPDX-License-Identifier: GPL-3.0-or-later
"""An upgrade that no phone notices: parked and idle connections, plain and TLS, go to a new process;
a new program that fails in any way leaves the old one serving."""
import os, signal, socket, ssl, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from upgradable import *


def no_verify():
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    return c


PING = wbxml(Phone.ping_body(600))
USERS = [f"u{i}@example.test" for i in range(8)]
s = Upgradable(tls=True, users=["alice@example.test"] + USERS,
               sets=["core.upgrade_start_s=4", "core.upgrade_pace_s=2", "core.drain_s=5"])
tls, tls12 = no_verify(), no_verify()
tls12.maximum_version = ssl.TLSVersion.TLSv1_2
wires = [Wire(s, u, device=f"d{i}", tls=(None, tls, tls12)[i % 3]) for i, u in enumerate(USERS)]


class Visitors(threading.Thread):
    """Connections that the server ends, one after the other: with a request that says so, and with one
    that is nonsense. Their end must be heard at once, although another process may hold copies."""
    def __init__(self):
        super().__init__()
        self.over, self.count, self.slow = False, 0, []

    def visit(self, request):
        with socket.create_connection(("127.0.0.1", s.http), timeout=10) as c:
            c.sendall(request)
            begin = None
            try:
                while c.recv(65536):
                    begin = time.monotonic()
            except ConnectionResetError:
                pass
            except TimeoutError:
                self.slow.append((request, begin))
            self.count += 1

    def run(self):
        while not self.over:
            self.visit(b"OPTIONS /Microsoft-Server-ActiveSync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.visit(b"nonsense\r\n\r\n")


def silent(w):
    if not isinstance(w.c, ssl.SSLSocket):
        return w.silent()
    w.c.setblocking(False)
    try:
        w.buffer += w.c.recv(65536)
        return False
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False
    finally:
        w.c.setblocking(True)


def park_all():
    for w in wires:
        w.send("Ping", PING)
    return wait_for(lambda: s.parked() == len(wires))


def touch(user):
    s.ctl("change", user, "1", check=True)


# ---- one upgrade, everything at once ------------------------------------------------------------------
for w in wires:
    w.ready()
ok(park_all(), "phones are parked, plain and TLS")
p = Phone(s, device="curl1").ready()
hanging = p.hang_ping(600)
q = Phone(s, device="curl2").ready()
waiting = q.hang("Sync", q.sync_body("1", after="<Wait>10</Wait>"))
ok(wait_for(lambda: s.parked() == len(wires) + 2), "so are curl's Ping and hanging Sync")
idle = Wire(s, device="idle", tls=tls)
idle.ready()
raw = socket.create_connection(("127.0.0.1", s.https))
half = Wire(s, USERS[0], device="half").send("FolderSync", FOLDER_SYNC_0, cut=60)
before = s.pid()
code, r = s.upgrade()
ok(code == 0, "the upgrade is done", r)
equal(r["parked"] if code == 0 else r, len(wires) + 2, "every hanging request was taken over")
ok(code == 0 and r["connections"] >= len(wires) + 4, "and so were idle connections", r)
ok(s.pid() == r["pid"] != before, "another process serves", (s.pid(), before, r))
ok(code == 0 and 0 < r["export_ms"] < r["pause_ms"] and abs(r["export_ms"] + r["restore_ms"] - r["pause_ms"]) < 1,
   "the pause and its parts are told", r)
equal(s.parked(), len(wires) + 2, "and counts them")
ok(all(silent(w) for w in wires), "no phone has heard anything")
half.c.sendall(half.rest)
a = half.answer()
ok(a.status == 200 and a.headers.get("connection") == "close", "a request that was coming in is answered by the old process", a)
ok(wait_for(lambda: s.p.poll() is not None, 10) and s.p.returncode == 0, "the old process ends in order", s.p.poll())
# A deadline, a request id and a mailbox are those of before.
rows = s.ctl_json("ping", "list")
ok(len(rows) == len(wires) + 2 and all(x["due_ms"] > time.time() * 1000 for x in rows), "the list of hanging requests is whole", rows)
s.deliver("after the upgrade")
a, b = hanging.answer(), waiting.answer()
equal(a.xml["Status"] if a.xml else a, "2", "mail after the upgrade wakes a Ping of before")
ok(b.status == 200 and b.xml and b.xml.one("Collections/Collection/Commands/Add"), "and a hanging Sync, which brings it", b)
for u in USERS:
    touch(u)
equal([ping_status(w.answer(10)) for w in wires], ["2"] * len(wires), "each phone is woken over its own connection and keys")
ok(all(silent(w) for w in wires), "once")
a = idle.post("FolderSync", FOLDER_SYNC_0)
equal(a.status, 200, "an idle TLS connection goes on")
late = tls.wrap_socket(raw)
late.sendall(b"OPTIONS /Microsoft-Server-ActiveSync HTTP/1.1\r\nHost: x\r\n\r\n")
ok(late.recv(100).startswith(b"HTTP/1.1 401"), "a connection that had said nothing yet shakes hands with the new process")
ok(wait_for(lambda: all(a == b for a, b in s.books()), 5) and s.metrics()["roost_connections_adopted_total"] >= len(wires),
   "what was taken over is accounted for", s.books())
equal(Phone(s, device="new").ready().ping(1).status, 200, "newcomers are served")
m = s.metrics()
ok(m["roost_connections"] >= len(wires), "gauges are right", m["roost_connections"])
equal((m['roost_auth_total{result="ok",cache="miss"}'], m['roost_auth_total{result="ok",cache="hit"}'] > 0), (0, True),
      "no password was hashed again")

# ---- the newest stays -----------------------------------------------------------------------------------
old = Wire(s, device="twin", tls=tls)
old.ready()
old.send("Ping", PING)
ok(wait_for(lambda: s.parked() == 1), "a phone is parked")
equal(s.upgrade()[0], 0, "another upgrade")
new = Wire(s, device="twin", tls=tls).send("Ping", PING)
equal(ping_status(old.answer(5)), "1", "a newer Ping ends the one of before the upgrade")
ok(wait_for(lambda: s.parked() == 1) and silent(new), "and stays itself")
new.close()
old.close()
ok(wait_for(lambda: s.parked() == 0), "a hang-up is noticed")

# ---- ten in a row, with changes all the while ---------------------------------------------------------------
wrong, pids = [], {s.pid()}
tickets = f"{HERE}/ticket"


def s_client(*args):
    """(whether the session was resumed, all it said)"""
    p = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{s.https}", "-ign_eof", *args],
                       input=b"OPTIONS /Microsoft-Server-ActiveSync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                       capture_output=True, timeout=20)
    return b"Reused, TLS" in p.stdout, p.stdout + p.stderr


for version in ("-tls1_2", "-tls1_3"):
    ok(not s_client(version, "-sess_out", tickets + version)[0] and os.path.exists(tickets + version),
       f"a phone has a ticket, {version[1:]}")
visitors = [Visitors(), Visitors()]
for v in visitors:
    v.start()
for round in range(10):
    if not park_all():
        wrong.append(f"round {round}: {s.parked()} parked")
    t = threading.Thread(target=lambda: [touch(u) for u in USERS])
    t.start()
    code, r = s.upgrade()
    t.join()
    if code:
        wrong.append(f"round {round}: {r}")
    pids.add(s.pid())
    answers = [ping_status(w.answer(10)) for w in wires]
    if answers != ["2"] * len(wires) or not all(silent(w) for w in wires):
        wrong.append(f"round {round}: {answers}")
for v in visitors:
    v.over = True
for v in visitors:
    v.join()
equal(wrong, [], "ten upgrades in a row: no wake is missed, none comes twice")
ok(all(v.count > 20 and not v.slow for v in visitors), "connections that the server ends meanwhile end at once",
   [(v.count, v.slow) for v in visitors])
for version in ("-tls1_2", "-tls1_3"):
    resumed, said = s_client(version, "-sess_in", tickets + version)
    ok(resumed, f"a ticket of before all of them resumes, {version[1:]}", said[-400:])
equal(len(pids), 11, "by ten processes")
ok(wait_for(lambda: sum(s.alive(p) for p in pids) == 1), "of which one is left")

# ---- new programs that fail ------------------------------------------------------------------------------
ok(park_all(), "phones are parked")
pid = s.pid()

TALKER = """#!/usr/bin/python3
import array, os, socket, struct, sys, time
fd = int(sys.argv[sys.argv.index("--take-over") + 1])
c = socket.socket(fileno=fd)
def hear():
    m, anc, _, _ = c.recvmsg(480, 1000)
    return struct.unpack("<8sIIQQ320s128s", m)[1] if m else 0
def say(kind, format=2, text=b"", a=0):
    c.send(struct.pack("<8sIIQQ320s128s", b"RoostUp1", kind, format, a, 0, text, b""))
while hear() != 4:
    pass
"""
# Has all sockets, then all there is.
TAKE = """
k = 0
while k != 7:
    k = hear()
    if k == 12:
        say(12)
"""


def fails(name, program, expect, *args, seconds=20):
    s.program(program)
    begin = time.monotonic()
    code, said = s.upgrade(*args)
    ok(code == 1 and expect in str(said) and time.monotonic() - begin < seconds, f"{name}: the operator is told", (code, said))
    ok(s.pid() == pid and s.alive(pid) and s.parked() == len(wires) and all(silent(w) for w in wires),
       f"{name}: the old process goes on")
    touch(USERS[0])
    equal(ping_status(wires[0].answer(10)), "2", f"{name}: phones are woken")
    wires[0].send("Ping", PING)
    w = Wire(s, USERS[1], device="visitor", tls=tls)
    equal(w.post("FolderSync", FOLDER_SYNC_0).status, 200, f"{name}: newcomers are served")
    w.close()
    wait_for(lambda: s.parked() == len(wires))


fails("a program that ends", "#!/bin/sh\nexit 1\n", "exit code 1")
fails("a program that hangs", "#!/bin/sh\nexec sleep 60\n", "not ready within 4 s")
fails("a program that is no program", "no program\n", "cannot start")
fails("another format", TALKER + "say(5, 99, b'9.9')\ntime.sleep(60)\n", "format 99")
fails("a refusal", TALKER + "say(9, 2, b'not today')\ntime.sleep(60)\n", "not today")
fails("an end with copies of the sockets in hand", TALKER + "say(5)\nwhile hear() != 11:\n    pass\nos._exit(4)\n", "exit code 4")
fails("a crash with the state in hand", TALKER + "say(5)\n" + TAKE + "os.kill(os.getpid(), 11)\n", "signal 11")
fails("a closed hand-over", TALKER + "say(5)\n" + TAKE + "os._exit(3)\n", "exit code 3")
ok(any("goes on serving" in l for l in s.log), "the log says so")

# ---- by signal; and what follows on a failure ----------------------------------------------------------------
s.program()
os.kill(pid, signal.SIGUSR2)
ok(wait_for(lambda: s.pid() != pid and not s.alive(pid), 15), "SIGUSR2 does the same")
equal(s.parked(), len(wires), "with every hanging request")
for u in USERS:
    touch(u)
equal([ping_status(w.answer(10)) for w in wires], ["2"] * len(wires), "that is woken then")
equal(s.upgrade()[0], 0, "and an upgrade by roostctl follows")

# ---- a program that cannot take over, when the operator wants it nevertheless -------------------------------
ok(park_all(), "phones are parked")
pid = s.pid()
s.program(TALKER + "say(5, 99, b'9.9')\nwhile hear() != 7:\n    pass\nsay(8)\ntime.sleep(20)\n")
begin = time.monotonic()
code, r = s.upgrade("--drain")
ok(code == 0 and r["parked"] == 0 and r["left"] >= len(wires), "--drain: requests stay with the old process", r)
answers, at = [], []
for w in wires:
    a = w.answer(10)
    answers.append((ping_status(a), a.headers.get("connection")))
equal(answers, [("1", "close")] * len(wires), "and end with 1 and Connection: close")
ok(wait_for(lambda: not s.alive(pid), 10) and time.monotonic() - begin > 0.5, "over a time", time.monotonic() - begin)
if code == 0:
    os.kill(r["pid"], signal.SIGKILL)

# ---- a configuration that changed meanwhile ------------------------------------------------------------------
conf, port = f"{HERE}/roost.conf", free_port()


def configure(text):
    with open(conf, "w") as f:
        f.write(text)


s.program()
configure("core { shards = 3 }\npolicy { require = false }\n")
s2 = Upgradable("--config", conf, tls=True, users=USERS, policy=True)
first = s
s = s2
wires = [Wire(s, u, device=f"d{i}", tls=(None, tls)[i % 2]) for i, u in enumerate(USERS)]
for w in wires:
    w.ready()
for shards in (1, 4, 2):
    ok(park_all(), "phones are parked")
    configure(f"core {{ shards = {shards} }}\npolicy {{ require = false }}\nlisten {{ lmtp = {{ \"unix:{HERE}/lmtp{shards}\" }} }}\n")
    code, r = s.upgrade()
    ok(code == 0 and r["parked"] == len(wires), f"an upgrade to {shards} shards", r)
    for u in USERS:
        touch(u)
    equal([ping_status(w.answer(10)) for w in wires], ["2"] * len(wires), "phones of all shards are woken")
    visitors = [Wire(s, USERS[0], device=f"v{shards}{i}", tls=tls) for i in range(8)]
    equal([v.post("FolderSync", FOLDER_SYNC_0).status for v in visitors], [200] * 8, "and newcomers come in")
    for v in visitors:
        v.close()
configure("core {\n shards = 8\n connections_max = 16\n}\npolicy { require = false }\n")
ok(park_all(), "phones are parked")
pid = s.pid()
code, r = s.upgrade()
ok(code == 1 and "no room" in r and s.pid() == pid and s.parked() == len(wires) and all(silent(w) for w in wires),
   "a new program with room for two connections in each shard takes none", r)
for u in USERS:
    touch(u)
equal([ping_status(w.answer(10)) for w in wires], ["2"] * len(wires), "and phones are woken by the old one")
configure("policy {\n require = false\n password_length_min = 6\n}\n")
ok(park_all(), "phones are parked")
code, r = s.upgrade()
equal((code, [ping_status(w.answer(5)) for w in wires]), (0, ["1"] * len(wires)),
      "an upgrade to another policy has every phone meet it")
w = Wire(s, USERS[0], device="last", tls=tls, key="0")
ok(w.post("OPTIONS").status in (200, 501), "and goes on")
s.ctl("stop", check=True)
ok(wait_for(lambda: not s.alive(s.pid()), 15), "roostctl stop ends the new process")
s.log += first.log

ok(not any("Sanitizer" in l for l in s.log), "nothing was found by an analyser", "\n".join(l for l in s.log if "Sanitizer" in l))
p = subprocess.run([ORIGINAL, "--handover-version"], capture_output=True)
ok(p.returncode == 0 and p.stdout.strip().isdigit(), "roostd --handover-version says which format it reads", p)
done()
