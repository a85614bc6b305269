# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrades as operators meet them: beneath systemd (told by NOTIFY_SOCKET who the main process is), with few
descriptors, as process 1 of a container, one after the other and at the same time as other orders, and to programs
that do not start. Phones hang all the while and must notice nothing."""
import os, signal, socket, struct, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from upgradable import *

USERS = [f"u{i}@example.test" for i in range(4)]
PING = wbxml(Phone.ping_body(600))


class Systemd(threading.Thread):
    """Hears what is said at NOTIFY_SOCKET, and by whom, as systemd does."""
    def __init__(self):
        super().__init__(daemon=True)
        self.path, self.said = f"{HERE}/notify", []
        self.c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.c.bind(self.path)
        self.c.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.start()

    def run(self):
        while True:
            text, anc, _, _ = self.c.recvmsg(4096, 256)
            pid = struct.unpack("iII", anc[0][2])[0]
            self.said.append((pid, text.decode().splitlines()))

    def of(self, pid):
        return [l for p, lines in list(self.said) for l in lines if p == pid]


class Operated(Upgradable):
    @staticmethod
    def comm(pid):
        with open(f"/proc/{pid}/comm") as f:
            return f.read()

    def begin(self):
        """Phones that hang."""
        self.wires = [Wire(self, u, device=f"d{i}") for i, u in enumerate(USERS)]
        for w in self.wires:
            w.ready()
            w.send("Ping", PING)
        return wait_for(lambda: self.parked() == len(self.wires))

    def still(self, name):
        """The phones hang as before, are woken, and hang again."""
        good = self.parked() == len(self.wires) and all(w.silent() for w in self.wires)
        for u in USERS:
            self.ctl("change", u, "1", check=True)
        answers = [ping_status(w.answer(10)) for w in self.wires]
        for w in self.wires:
            w.send("Ping", PING)
        back = wait_for(lambda: self.parked() == len(self.wires))
        ok(good and back and answers == ["2"] * len(self.wires), f"{name}: phones have noticed nothing, and are woken", (good, answers, back))


# ---- beneath systemd -----------------------------------------------------------------------------------
systemd = Systemd()
s = Operated(users=USERS, sets=["core.upgrade_start_s=4"], env={"NOTIFY_SOCKET": systemd.path})
ok(wait_for(lambda: "READY=1" in systemd.of(s.p.pid)), "systemd is told that the server is ready")
ok(s.begin(), "phones hang")
first = s.pid()
code, r = s.upgrade()
ok(code == 0, "an upgrade", r)
new = s.pid()
ok(wait_for(lambda: f"MAINPID={new}" in systemd.of(first)), "systemd is told of the new main process by the old one", systemd.said)
ok(wait_for(lambda: "WATCHDOG=1" in systemd.of(new)), "the new one keeps the watchdog quiet", systemd.said)
ok(wait_for(lambda: not s.alive(first)), "the old one ends")
said = [(p, l) for p, lines in list(systemd.said) for l in lines]
at = said.index((first, f"MAINPID={new}"))
ok(not [1 for p, l in said[at + 2:] if p == first] and "STOPPING=1" not in systemd.of(first) and "READY=1" not in systemd.of(new),
   "which says nothing after that, and nothing of an end", said)
s.still("beneath systemd")
s.program(text="#!/bin/sh\nexit 1\n")
code, r = s.upgrade()
ok(code == 1 and not [l for l in systemd.of(new) if l.startswith("MAINPID")], "an upgrade that fails changes no main process", (code, r))
before = len(systemd.of(new))
ok(wait_for(lambda: len(systemd.of(new)) > before), "and the watchdog goes on being told")
s.program(text="#!/bin/sh\nexec sleep 20\n")
before = systemd.of(new).count("WATCHDOG=1")
code, r = s.upgrade()
ok(code == 1 and systemd.of(new).count("WATCHDOG=1") >= before + 5, "also while a new program that hangs is waited for", (code, r))

# ---- programs that do not start --------------------------------------------------------------------------
def fails(name, expect, **program):
    pid = s.pid()
    s.program(**program)
    code, said = s.upgrade()
    ok(code == 1 and expect in str(said) and s.pid() == pid, f"{name}: the operator is told, the old one serves", (code, said))
    s.still(name)


fails("not executable", "Permission denied", mode=0o644)
fails("empty", "Exec format error", text="")
fails("an interpreter that is not there", "No such file", text="#!/no/such/interpreter\n")
with open(ORIGINAL, "rb") as f:
    whole = f.read()
with open(f"{HERE}/.broken", "wb") as f:
    f.write(whole.replace(b"liburing.so.2\0", b"libgoner.so.2\0"))
fails("a library that is not there", "exit code 127", file=f"{HERE}/.broken")
with open(f"{HERE}/.broken", "wb") as f:
    f.write(whole[: len(whole) // 3])
fails("half a copy", "the new program", file=f"{HERE}/.broken")
pid = s.pid()
os.unlink(f"{HERE}/roostd")
code, said = s.upgrade()
ok(code == 1 and "No such file" in str(said) and s.pid() == pid, "no program at all: the operator is told", (code, said))
s.still("no program at all")

# ---- orders at the same time -----------------------------------------------------------------------------
s.program()
pids, results = {s.pid()}, []
ts = [threading.Thread(target=lambda: results.append(s.upgrade())) for _ in range(4)]
for t in ts:
    t.start()
for t in ts:
    t.join()
good = [r for c, r in results if c == 0]
ok(len(results) == 4 and good, "four upgrades at once: at least one is done", results)
ok(wait_for(lambda: sum(s.alive(p) for p in pids | {s.pid()} | {r["pid"] for r in good}) == 1, 20), "and one process is left", results)
s.still("four upgrades at once")
for _ in range(5):
    os.kill(s.pid(), signal.SIGUSR2)
    os.kill(s.pid(), signal.SIGHUP)
    time.sleep(0.3)
wait_for(lambda: s.ctl("health").returncode == 0)
ok(wait_for(lambda: s.ctl("health").returncode == 0), "signals to upgrade and to reload, one after the other, leave a server that is well")
time.sleep(1)
s.still("upgrades and reloads")
code, r = s.upgrade()
code2, r2 = s.upgrade()
ok((code, code2) == (0, 0), "an upgrade straight after another one", (r, r2))
s.still("straight after another one")

# A drain that cannot end by itself: a request is coming in.
slow = Wire(s, USERS[0], device="slow").send("FolderSync", FOLDER_SYNC_0, cut=60)
pid = s.pid()
os.kill(pid, signal.SIGTERM)
ok(wait_for(lambda: s.wires[0].answer(5).status == 200), "a drain answers phones that hang")
code, r = s.upgrade()
ok(code != 0 and r, "an upgrade during a drain is refused, with a reason", (code, r))
slow.close()
ok(wait_for(lambda: not s.alive(pid), 40), "and the drain ends", s.log[-3:])

# ---- few descriptors ---------------------------------------------------------------------------------------
few = Operated(users=USERS, before=("sh", "-c", 'ulimit -n 1024; exec "$@"', "sh"))
s = few
ok(s.begin(), "1,024 descriptors: phones hang")
many = [socket.create_connection(("127.0.0.1", s.http)) for _ in range(1500)]
ok(wait_for(lambda: s.metrics()["roost_connections"] >= 1500), "and hundreds of others are connected")
code, r = s.upgrade()
ok(code == 0 and r["connections"] >= 1504, "1,024 descriptors: an upgrade", r)
s.still("1,024 descriptors")
code, r = s.upgrade()
ok(code == 0, "and another", r)
s.still("1,024 descriptors, again")
for c in many:
    c.close()
ok(wait_for(lambda: s.metrics()["roost_connections"] <= len(USERS) + 1), "nothing is left of connections that end", s.metrics()["roost_connections"])
s.ctl("stop", check=True)

# ---- supervisors that watch the process they started --------------------------------------------------------
def stays(name, before=(), sets=(), users=USERS):
    """A server whose first process must stay as long as any does; its number here."""
    global s
    s = Operated(users=users, before=before, sets=["core.drain_s=5", *sets])
    first = s.p.pid
    while before and not Operated.comm(first).startswith("roostd"):
        with open(f"/proc/{first}/task/{first}/children") as f:
            first = int(f.read().split()[0])
    ok(s.begin(), f"{name}: phones hang")
    for _ in range(3):
        server = s.pid()
        code, r = s.upgrade()
        ok(code == 0 and s.pid() != server and s.p.poll() is None, f"{name}: an upgrade, and the first process stays", (code, r))
        s.still(name)
    server = s.pid()
    os.kill(first, signal.SIGUSR2)
    ok(wait_for(lambda: s.pid() not in (0, server)), f"{name}: a signal to it reaches the server")
    s.still(name)
    return first


def ends(name, code):
    ok(wait_for(lambda: s.p.poll() is not None, 20) and s.p.returncode == code, f"{name}: it ends with the server, code {code}",
       (s.p.poll(), s.log[-3:]))


first = stays("core.stay", sets=["core.stay=true"])
coming = Wire(s, USERS[0], device="coming").send("FolderSync", FOLDER_SYNC_0, cut=60)
s.upgrade()
s.p.send_signal(signal.SIGTERM)  # while the one before it is ending still
answers = [w.answer(10) for w in s.wires]
equal([(ping_status(a), a.headers.get("connection")) for a in answers], [("1", "close")] * len(USERS), "core.stay: SIGTERM to it is a drain")
coming.close()
ends("core.stay", 0)
container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
if subprocess.run([*container, "true"], capture_output=True).returncode == 0:
    first = stays("process 1", container)
    s.ctl("stop", check=True)
    ends("process 1", 0)
    first = stays("process 1 again", container)
    os.kill(first, signal.SIGTERM)
    ends("process 1 again", 0)
    stays("beneath an init", [*container, "sh", "-c", '"$@"; exit $?', "sh"], ["core.stay=true"])
    s.ctl("stop", check=True)
    ends("beneath an init", 0)
else:
    print("# no namespace of processes can be made here: process 1 was not tried")
done()
