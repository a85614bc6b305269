# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's life: start and what can be wrong with it, configuration, reload, drain, crash, limits,
who gets in, and the tools that look on. Load comes from threads with raw sockets on 127.0.0.x."""
import os, resource, smtplib, ssl, sys, time
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

BUILD = os.environ.get("B") or ("build/gcc" if BIN == "bin" else os.path.dirname(BIN))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
tmp = tempfile.mkdtemp(prefix="roost-e2e-")
atexit.register(shutil.rmtree, tmp, ignore_errors=True)
ids = []       # of all answers: none may come twice
PING = wbxml(Phone.ping_body(900))
ALICE = "alice@example.test"


def path(name):
    return os.path.join(tmp, name)


def write(name, text):
    with open(path(name), "w") as f:
        f.write(text)
    return path(name)


def many(items, fn, threads=40):
    """fn of each at the same time; the results in order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(fn, items))


def note(answers):
    ids.extend(a.headers["x-request-id"] for a in answers if "x-request-id" in a.headers)
    return answers


def section(name):
    print(f"# {name}", flush=True)


def certificate(name, subject, key="ec"):
    args = ["-newkey", "rsa:2048"] if key == "rsa" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "req", "-x509", *args, "-nodes", "-keyout", path(name + ".key"), "-out",
                    path(name + ".pem"), "-days", "30", "-subj", f"/CN={subject}", "-addext",
                    f"subjectAltName=DNS:{subject}"], capture_output=True, check=True)


certificate("one", "one.example.test")
certificate("two", "two.example.test")

# ---- start-up errors ---------------------------------------------------------------------------------
section("start-up errors")
s = Server(users=(), start=False)


def refuses(name, want, *args, **more):
    code, said = s.refused(*args, **more)
    good = code == 1 and len(said) == 1 and said[0].startswith("roostd: ") and all(w in said[0] for w in want)
    ok(good, f"{name}: exit 1 and one line that says so", f"exit {code}: {said}")


https = f"127.0.0.1:{s.https}"
pair = lambda c, k: ["--set", f"tls.certificate={path(c)}", "--set", f"tls.key={path(k)}"]
refuses("a certificate that is not there", ["tls.certificate", "missing.pem"], "--https", https, *pair("missing.pem", "one.key"))
refuses("a key of another certificate", ["one.pem", "two.key"], "--https", https, *pair("one.pem", "two.key"))
refuses("no certificate at all", ["tls.certificate", "tls.self_signed"], "--https", https)
write("junk.pem", "junk")
refuses("a certificate that is none", ["junk.pem"], "--https", https, *pair("junk.pem", "one.key"))
with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    for kind in ("http", "lmtp", "admin"):
        refuses(f"a port in use ({kind})", [str(port), "in use"], f"--{kind}", f"127.0.0.1:{port}")
refuses("an address that is not ours", ["192.0.2.1"], "--http", "192.0.2.1:8080")
refuses("an address that is none", ["nonsense"], "--http", "nonsense")
write("file", "")
refuses("a data directory that is a file", [path("file")], "--data", path("file"), "--http", "127.0.0.1:0")
refuses("a data directory that cannot be made", ["/proc/roost"], "--data", "/proc/roost", "--http", "127.0.0.1:0")
if os.geteuid() == 0 and shutil.which("setpriv"):
    os.mkdir(path("locked"), 0o555)
    os.chmod(tmp, 0o755)
    shutil.copy(f"{BIN}/roostd", path("roostd"))
    p = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", path("roostd"), "--data", path("locked"), "--http", "127.0.0.1:0"],
                       capture_output=True, timeout=20)
    # (a coverage build adds that it may not write its figures)
    last = [line for line in p.stderr.decode().splitlines() if not line.startswith("profiling:")][-1]
    ok(p.returncode == 1 and "locked" in last and "ermission" in last, "a data directory that cannot be written says so", last)
bad = write("bad.conf", "push {\n    heartbeat_min_s = 60\n    heartbeat_max_s = 99999\n}\n")
refuses("a value out of range in the file", ["bad.conf:3", "heartbeat_max_s", "60", "3540"], "--config", bad)
refuses("a file that is no configuration", ["worse.conf:2"], "--config", write("worse.conf", "push {\n  nonsense = 1\n}\n"))
refuses("a configuration file that is not there", ["no.conf"], "--config", path("no.conf"))
refuses("an unknown key", ["hartbeat", "heartbeat_min_s"], "--set", "push.hartbeat=60")
refuses("a value out of range in --set", ["auth.hash_cost", "minimal"], "--set", "auth.hash_cost=free")
refuses("a value out of range in the environment", ["ROOST_PUSH_HEARTBEAT_MIN_S", "3540"], env={"ROOST_PUSH_HEARTBEAT_MIN_S": "0"})
refuses("too few descriptors for the connections wanted", ["RLIMIT_NOFILE", "256"], "--http", "127.0.0.1:0", "--set", "core.connections_max=1000000",
        before=["prlimit", "--nofile=256:256"])


def helper_built(name):
    built = f"{BUILD}/tests/e2e/{name}"
    if not os.path.exists(built):
        built = path(name)
        subprocess.run(["gcc", "-o", built, os.path.join(os.path.dirname(__file__), f"{name}.c")], check=True)
    return built


helper = helper_built("deny_uring")
for errno, word in (("EPERM", "seccomp"), ("ENOSYS", "kernel")):
    refuses(f"io_uring refused with {errno}", ["io_uring", errno, word], "--http", "127.0.0.1:0", before=[helper, errno])
for args in (["--nonsense"], ["stray"], ["--data"]):
    code, said = s.refused(*args)
    ok(code == 2 and "--help" in said[-1], f"roostd {args[0]}: exit 2 and a hint", said)

# ---- checking a configuration ---------------------------------------------------------------------------
section("configuration")
good = write("good.conf", "push {\n    heartbeat_min_s = 120\n}\n")
run = lambda *a, **env: subprocess.run([f"{BIN}/roostd", *a], capture_output=True, env=dict(os.environ, **env))
p = run("--config", good, "--check-config")
ok(p.returncode == 0 and b"good" in p.stdout, "--check-config of a good file: 0", p)
p = run("--config", bad, "--check-config")
ok(p.returncode == 1 and b"bad.conf:3" in p.stderr, "of a bad one: 1, file and line", p)
p = run("--config", good, "--print-config", "--set", "push.folders_max=7", ROOST_PUSH_HEARTBEAT_MIN_S="300", ROOST_PUSH_FOLDERS_MAX="9")
ok(b"push.heartbeat_min_s = 300" in p.stdout and b"push.folders_max = 7" in p.stdout,
   "the environment is above the file, the command line above both", p.stdout.decode()[-600:])

# ---- reload -------------------------------------------------------------------------------------------------
section("reload")


def configure(cert="one", key=None, level="info", least=60, password=0):
    return write("roost.conf", f"""tls {{
    certificate = "{path(cert)}.pem"
    key = "{path(key or cert)}.key"
}}
push {{
    heartbeat_min_s = {least}
}}
policy {{
    password_length_min = {password}
}}
log {{
    level = "{level}"
}}
""")


configure()
s = Server("--config", path("roost.conf"), "--https", https, policy=True)
s.https = int(https.rsplit(":")[-1])
p = Phone(s)
p.provision()
p.ready()


def reload(how="done"):
    seen = len(s.log)
    s.p.send_signal(signal.SIGHUP)
    return wait_for(lambda: next((l for l in s.log[seen:] if "reload: " in l and how in l), None), 5)


def subject():
    out = subprocess.run(["openssl", "s_client", "-connect", https, "-servername", "one.example.test"], input=b"", capture_output=True, timeout=10).stdout
    return re.search(rb"subject=.*CN *= *([a-z.]+)", out).group(1).decode()


tls_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
tls_client.check_hostname, tls_client.verify_mode = False, ssl.CERT_NONE


def resume(session=None):
    """(whether the session was taken, the next one)"""
    with tls_client.wrap_socket(socket.create_connection(("127.0.0.1", s.https), 10), session=session) as t:
        t.sendall(b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n")
        t.recv(100)  # the ticket comes before the answer
        return t.session_reused, t.session


equal(subject(), "one.example.test", "the first certificate is served")
_, ticket = resume()
taken, ticket = resume(ticket)
ok(taken, "a phone resumes its TLS session")
configure("two")
ok(reload(), "SIGHUP reloads")
ok(resume(ticket)[0], "and still does, whatever the certificate: reloading costs no storm of handshakes")
equal(subject(), "two.example.test", "and new connections see the new certificate")
configure("one", "two")
line = reload("two.key")
ok(line and "one.pem" in line, "a pair that does not match is refused, the log says why", s.log[-3:])
equal(subject(), "two.example.test", "and the old one stays in force")
configure("two", least="many")
ok(reload("roost.conf:6"), "a wrong file is refused with file and line", s.log[-2:])
h = p.hang_ping(60)
configure("two", level="debug", least=120)
reload()
ok(h.p.poll() is None, "a reload that changes no policy leaves parked Pings alone")
a = p.post("Ping", Phone.ping_body(60)).xml
equal((a["Status"], a["HeartbeatInterval"]), ("5", "120"), "push limits change")
h.hang_up()
wait_for(lambda: s.parked() == 0)
h = p.hang_ping(120)
ok(wait_for(lambda: any(" parked " in l for l in s.log), 2), "the log level changes", s.log[-5:])
configure("two", least=120, password=6)
s.ctl("reload", check=True)
a = h.answer(5)
equal(a.xml["Status"] if a.xml else a, "144", "a policy change ends parked Pings, asking for the policy")
equal(p.folder_sync().xml["Status"], "144", "other commands meet 144 too")
p.provision()
equal(p.folder_sync().xml["Status"], "1", "until the phone has the new one")
out = subprocess.run(["curl", "-s", "-m", "5", f"http://{https}/"], capture_output=True).stdout
ok(b"TLS is needed" in out, "plain HTTP on the TLS port is told that TLS is needed", out)
equal(s.stop(), 0, "it ends in order")

# ---- drain -----------------------------------------------------------------------------------------------------
section("drain")
s = Server(tls=True, sets=["core.drain_s=4", "push.heartbeat_min_s=1", "core.shards=2"])
s.tls = False
p = Phone(s).ready()
ping = Wire(s, device="pings")
ping.ready()
ping.send("Ping", PING)
hang = Wire(s, device="syncs")
hang.ready()
hang.send("Sync", "<AirSync:Sync><Collections><Collection><SyncKey>1</SyncKey><CollectionId>1</CollectionId>"
          "</Collection></Collections><HeartbeatInterval>900</HeartbeatInterval></AirSync:Sync>")
ok(wait_for(lambda: s.parked() == 2), "a Ping and a Sync hang", s.metrics())
piped = Wire(s, device="piped")
piped.ready()
piped.send("Ping", PING)
wait_for(lambda: s.parked() == 3)
piped.send("Ping", PING, cut=60)
half = Wire(s, device="half").send("FolderSync", FOLDER_SYNC_0, cut=-5)
idle = Wire(s)
note([idle.post("FolderSync", FOLDER_SYNC_0)])
mute = socket.create_connection(("127.0.0.1", s.https))
mute.sendall(b"\x16\x03\x01\x02\x00")
stuck = Wire(s).send("FolderSync", FOLDER_SYNC_0, cut=50)
time.sleep(0.2)
began = time.monotonic()
s.p.send_signal(signal.SIGTERM)
a = ping.answer(5)
equal((ping_status(a), a.headers.get("connection")), ("1", "close"), "SIGTERM: a Ping ends with 1 and Connection: close")
a = hang.answer(5)
equal((a.status, a.body, a.headers.get("connection")), (200, b"", "close"), "a hanging Sync gets an empty 200")
equal(ping_status(piped.answer(5)), "1", "a Ping with bytes behind it ends too")
half.c.sendall(half.rest)
a = half.answer(5)
equal((a.status, a.headers.get("connection")), (200, "close"), "a request that was under way is finished")
equal(idle.answer(2).status, 0, "an idle connection is closed")
try:
    Wire(s)
    refused = False
except OSError:
    refused = True
ok(refused, "nobody is let in any more")
code = s.p.wait(20)
took = time.monotonic() - began
ok(code == 0 and 3 < took < 6.5, "one that never ends its request holds the drain up for core.drain_s only, exit 0", f"{code} after {took:.1f} s")
p2 = s.ctl("check")
ok(p2.returncode == 0, "roostctl check finds the store clean", p2)
for c in (ping, hang, piped, half, idle, stuck, mute):
    c.close()

# ---- kill -9 ---------------------------------------------------------------------------------------------------
section("crash")
s.sets = [x for x in s.sets if "drain" not in x]
s.start()
p.sync_all()
h = p.hang_ping(300)
s.deliver("while it lives")
equal(h.answer().xml["Status"], "2", "a Ping is remembered")
s.p.kill()
s.p.wait()
s.deliver("while it is dead")
s.start()
equal(len(p.sync_all()), 2, "after kill -9 the phone's key is valid and no mail is lost")
h = p.hang("Ping")
ok(wait_for(lambda: s.parked() == 1), "the remembered Ping parks")
s.deliver("afterwards")
equal(h.answer().xml["Status"], "2", "and is woken")
# The kernel may hold a killed server's addresses for seconds.
s.p.kill()
s.stop()
before = len(s.log)  # the start after the first kill may have met the same by itself
holder = []


def hold_address():
    try:
        holder.append(socket.create_server(("127.0.0.1", s.http)))
    except OSError:
        pass  # the kernel still does
    return holder


wait_for(hold_address)
with holder[0]:
    starting = threading.Thread(target=s.start)
    starting.start()
    ok(wait_for(lambda: any("still in use" in l for l in s.log[before:])), "after kill -9 a start waits for an address that is held", s.log[before:])
    ok(not s.ready.is_set() and s.p.poll() is None, "and says nothing of being ready", s.log[before:])
starting.join(20)
ok(s.p.poll() is None and s.ready.is_set(), "and comes up when it is free", s.log[-3:])
code, said = s.refused("--http", "127.0.0.1:0")
ok(code == 1 and len(said) == 1 and s.dir in said[0], "a second server on the same directory: exit 1 and one line that says so", said)
other = Server(users=(), start=False)
code, said = other.refused("--http", f"127.0.0.1:{s.http}")
ok(code == 1 and "in use" in said[0], "another server on the same port does not share it silently", said)

# ---- bytes behind a hanging request --------------------------------------------------------------------------
section("pipelining")
for cut in (1, 60, -3, None):
    user = f"piped{cut}@example.test"
    s.ctl("user", "add", user, "--password-stdin", input="secret", check=True)
    w = Wire(s, user)
    w.ready()
    w.send("Ping", PING)
    wait_for(lambda: s.parked() == 1)
    w.send("FolderSync", FOLDER_SYNC_0, cut=cut)
    time.sleep(0.05)
    s.deliver("ends the Ping", to=user)
    first = w.answer(5)
    w.c.sendall(w.rest)
    then = w.answer(5)
    ok(ping_status(first) == "2" and then.status == 200 and len(then.body) > 100,
       f"a request cut at {cut} behind a hanging Ping is answered after it", f"{first} {then}")
    w.close()

# ---- the newest wins, whichever shard it is on ----------------------------------------------------------------
section("two shards")
bad = []
for i in range(50):
    two = [Wire(s, device="phone1"), Wire(s, device="phone1")]
    if i == 0:
        p.sync_all()
    for w in two if i % 2 else reversed(two):
        w.send("Ping", PING)
    ended = wait_for(lambda: [w for w in two if not w.silent()], 5)
    if not ended or len(ended) != 1 or ping_status(ended[0].answer(2)) != "1":
        bad.append((i, ended and [ping_status(w.answer(2)) for w in ended]))
    elif wait_for(lambda: s.parked() == 1, 3) is not True:
        bad.append((i, "parked", s.parked()))
    for w in two:
        w.close()
ok(not bad, "of two Pings of a phone one stays and one ends with 1, fifty times", bad)
ok(wait_for(lambda: s.parked() == 0, 5), "and none is left behind")

# ---- who gets in -----------------------------------------------------------------------------------------------
section("passwords")
s.stop()
s.sets += ["auth.default_domain=example.test", "auth.hash_threads=1", "auth.hash_queue_max=1", "auth.hash_cost=interactive"]
s.start()
s.ctl("user", "add", "umlaut@example.test", "--password-stdin", input="Pässwörd €".encode(), check=True)
s.ctl("user", "add", "latin@example.test", "--password-stdin", input="Grüße".encode(), check=True)
s.ctl("user", "add", "gone@example.test", "--password-stdin", input="secret", check=True)
s.ctl("user", "disable", "gone@example.test", check=True)


def who(user, password="secret", cmd="FolderSync", body=FOLDER_SYNC_0):
    w = Wire(s, user, password, device="who")
    a = w.post(cmd, body)
    w.close()
    return note([a])[0]


equal(who("umlaut@example.test", "Pässwörd €").status, 200, "a password in UTF-8")
equal(who("latin@example.test", "Grüße".encode("latin-1")).status, 200, "the same in Latin-1 as Outlook sends it")
equal([who(u).status for u in ("alice", "EXAMPLE\\alice", "example.test\\alice", "Alice@Example.Test", "X\\alice@example.test")],
      [200] * 5, "user, DOMAIN\\user, domain\\user and other spellings of an address")
a = who("gone@example.test")
equal((a.status, "www-authenticate" in a.headers), (403, False), "a disabled account: 403")
equal(who("gone@example.test", "wrong").status, 401, "but with a wrong password 401: nobody learns that it is disabled")
a = who(ALICE, "wrong")
ok(a.status == 401 and "Basic" in a.headers["www-authenticate"], "a wrong password: 401", a)
equal(who(ALICE, "").status, 401, "an empty one too")
equal(who(ALICE, "x" * 300).status, 401, "and one longer than any")
before = s.metrics()
answers = many(range(8), lambda i: who(ALICE, "often wrong"))
after = s.metrics()
key = 'roost_auth_total{result="bad",cache="miss"}'
ok({a.status for a in answers} <= {401, 503} and after[key] - before[key] == 1, "the same wrong password is hashed and counted once",
   f"{[a.status for a in answers]} {after[key] - before[key]}")
answers = many(range(40), lambda i: who(f"nobody{i}@example.test", "x") if i % 4 else who("Alice@example.test" if i % 8 else "alice"))
good, wrong = [a for i, a in enumerate(answers) if i % 4 == 0], [a for i, a in enumerate(answers) if i % 4]
ok(all(a.status == 200 for a in good), "while the hashing is overloaded, a known password is served", [a.status for a in good])
ok({a.status for a in wrong} == {401, 503} and all(30 <= int(a.headers["retry-after"]) <= 60 for a in wrong if a.status == 503),
   "those who cannot be checked now get 503 with Retry-After", [a.status for a in wrong])
ok(s.metrics()['roost_auth_total{result="overload",cache="miss"}'] == sum(a.status == 503 for a in wrong), "each counted once",
   s.metrics()['roost_auth_total{result="overload",cache="miss"}'])
s.ctl("user", "passwd", ALICE, "--password-stdin", input="changed", check=True)
equal((who(ALICE, "secret").status, who(ALICE, "changed").status), (401, 200), "a changed password counts at once, the remembered one no more")
s.ctl("user", "passwd", ALICE, "--password-stdin", input="secret", check=True)
big = Wire(s, ALICE, "stale")
a = note([big.post("SendMail", b"x" * 2_000_000)])[0]
ok(a.status == 401 and big.post("FolderSync", FOLDER_SYNC_0).status == 401, "a large body with an old password gets its 401, and the connection lives", a)
big.close()

w = Wire(s, device="banned")
w.ready()
w.send("Ping", PING)
wait_for(lambda: s.parked() == 1)
s.ctl("device", "block", "banned", check=True)
equal(ping_status(w.answer(5)), "129", "blocking a device ends its Ping with 129")
equal(ping_status(w.post("Ping", PING)), "129", "the next one gets it too")
w.close()
w = Wire(s, device="banned", version="12.1")
equal(w.post("Ping", PING).status, 403, "at 12.1 it is HTTP 403")
w.close()

# ---- tools that look on -------------------------------------------------------------------------------------------
section("tools")
w = Wire(s, device="watched")
w.ready()
w.send("Ping", PING)
wait_for(lambda: s.parked() == 1)
v = s.ctl_json("ping", "list")
ok(len(v) == 1 and "watched" in json.dumps(v) and "127.0.0.1" in json.dumps(v), "ping list --json names the parked phone", v)
out = s.ctl("top", "--once").stdout.decode()
ok("watched" in out, "top --once shows the state", out)
v = s.ctl_json("stats")
ok(v and "parked" in json.dumps(v), "stats --json", v)
p2 = subprocess.run(["swaks", "--protocol", "LMTP", "--server", f"127.0.0.1:{s.lmtp}", "--to", ALICE, "--from", "bob@example.test",
                     "--header", "Subject: by LMTP"], capture_output=True, timeout=20)
a = w.answer(5)
ok(p2.returncode == 0 and ping_status(a) == "2", "LMTP as swaks speaks it wakes a parked phone", f"{p2.stdout.decode()[-300:]} {a}")
a = who(ALICE, "wrong again")
out = s.ctl("why", a.headers["x-request-id"]).stdout.decode()
ok("401" in out and "password" in out, "why explains a request by its id", out)
w.close()
s.stop()

# ---- limits ---------------------------------------------------------------------------------------------------------
section("limits")
s = Server(tls=True, sets=["core.shards=1", "core.connections_max=32"])
inside = []
refused = quick = 0
for i in range(60):
    t = time.monotonic()
    try:
        w = Wire(s, device=f"d{i}")
        a = w.post("FolderSync", FOLDER_SYNC_0, wait=3)
    except OSError:
        a = Answer(b"")
    if a.status == 200:
        inside.append(w)
    else:
        refused += 1
        quick += time.monotonic() - t < 1
ok(24 <= len(inside) <= 32 and quick == refused > 0, "a full table refuses newcomers quickly", f"{len(inside)} in, {refused} refused, {quick} quickly")
ok(all(w.post("FolderSync", FOLDER_SYNC_0).status == 200 for w in inside), "those inside are served")
for w in inside[:10]:
    w.close()
wait_for(lambda: s.metrics()["roost_connections"] <= len(inside) - 10, 3)
m = s.metrics()
ok(m['roost_connections_refused_total{reason="table_full"}'] >= refused, "refusals are counted", m)
equal(Wire(s).post("FolderSync", FOLDER_SYNC_0).status, 200, "when some left there is room again")
s.stop()

s = Server(tls=True, sets=["core.shards=1", "core.requests_in_flight_max=16", "tls.handshakes_max=1", "core.workers=2"])
wires = [Wire(s, device=f"d{i}") for i in range(200)]
for w in wires:
    w.send("FolderSync", FOLDER_SYNC_0)
answers = note([w.answer() for w in wires])
ok([a.status for a in answers] == [200] * 200, "200 requests at once where 16 may be under way: all are served", [a for a in answers if a.status != 200][:3])
for w in wires:
    w.close()
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE


def over_tls(i):
    w = Wire(s, device=f"d{i}", tls=tls)
    a = w.post("FolderSync", FOLDER_SYNC_0)
    w.close()
    return a


answers = note(many(range(120), over_tls, 60))
ok([a.status for a in answers] == [200] * 120, "120 TLS handshakes where one may be under way: all are served", [a for a in answers if a.status != 200][:3])
silent = [socket.create_connection(("127.0.0.1", s.http)) for i in range(40)]
for c in silent:
    c.sendall(b"P")
t = time.monotonic()
w = Wire(s, device="patient")
w.send("FolderSync", FOLDER_SYNC_0)
time.sleep(0.3)
for c in silent:
    c.close()
ok(w.answer(10).status == 200, "when slow ones hold all memory, the next is served as soon as they leave")
w.close()
ok(wait_for(lambda: s.metrics()["roost_connections"] == 0, 5), "nothing is left", s.metrics()["roost_connections"])
s.stop()

s = Server(sets=["core.workers=1", "core.work_queue_max=1", "core.shards=2"])
answers = note(many(range(120), lambda i: Wire(s, device=f"d{i}").post("FolderSync", FOLDER_SYNC_0), 60))
codes = {a.status for a in answers}
ok(codes == {200, 503} and all("retry-after" in a.headers for a in answers if a.status == 503), "a full queue of commands gets 503 with Retry-After", codes)
m = s.metrics()
equal(m["roost_work_refused_total"], sum(a.status == 503 for a in answers), "each counted")
s.stop()

# ---- the store is full -----------------------------------------------------------------------------------------------
section("store full")
# (in the environment, so that roostctl keeps to it too)
s = Server(env={"ROOST_STORE_MAP_MIB": "1", "ROOST_STORE_MAP_MAX_MIB": "4"})
p = Phone(s).ready()
message = (b"From: bob@example.test\r\nSubject: big\r\n\r\n" + b"z" * 70 + b"\r\n") + (b"y" * 76 + b"\r\n") * 5000


def lmtp(data):
    try:
        with smtplib.LMTP("127.0.0.1", s.lmtp) as c:
            c.sendmail("bob@example.test", [ALICE], data)
        return 250
    except smtplib.SMTPDataError as e:
        return e.smtp_code
    except smtplib.SMTPRecipientsRefused as e:
        return list(e.recipients.values())[0][0]


codes = []
while len(codes) < 40 and (not codes or codes[-1] == 250):
    codes.append(lmtp(message))
ok(codes[0] == 250 and codes[-1] in (451, 452), "a full store defers mail by LMTP", codes)
out = s.ctl("deliver", ALICE, input=message)
ok(out.returncode == 1 and b"store.map_max" in out.stderr, "roostctl deliver says that it is full", out)
equal(p.ping(60).status, 200, "phones are answered all the same")
ok(s.p.poll() is None, "the server goes on")
equal(s.stop(), 0, "and ends in order")

# ---- 2,000 phones with 256 descriptors -------------------------------------------------------------------------------
section("store lost")
# A disk that refuses LMDB's root pages: from then on LMDB refuses everything, in this process.
s = Server(before=[helper_built("deny_roots")])
code = lmtp(b"Subject: lost\r\n\r\nx\r\n")
ok(code in (451, 452), "mail is deferred that did not get to the disk", code)
ok(wait_for(lambda: s.p.poll() is not None, 20), "a server whose store is lost ends by itself")
equal(s.stop(), 1, "and says by its exit that it failed, so that it is started again")
ok(any("opened anew" in l for l in s.log), "the log says why", s.log[-5:])
s.before = []
s.start()
s.deliver("again")
p = Phone(s).ready()
equal(s.stop(), 0, "started again it serves")

section("store damaged")
s = Server()
p = Phone(s).ready()
h = p.hang_ping(900)
equal(subprocess.run([f"{BUILD}/tests/e2e/admin-fixture", s.dir, "damage"]).returncode, 0, "a row of the journal is damaged")
s.deliver("behind the damage")
equal(ping_status(h.answer(20)), "2", "what is committed behind it wakes phones all the same")
ok(any("journal" in l for l in s.log), "and the log says that a row cannot be read", s.log[-5:])
equal(s.stop(), 0, "and ends in order")

section("many phones, few descriptors")
USERS, EACH = 20, 100


s = Server(users=[f"u{i}@example.test" for i in range(USERS)], before=["prlimit", "--nofile=256:256"],
           sets=["core.connections_max=4096", "core.shards=2", "log.requests=false"])


def park(i):
    w = Wire(s, f"u{i % USERS}@example.test", device=f"d{i // USERS}", source=f"127.0.0.{2 + i % 200}")
    if w.ready().status != 200:
        return w
    return w.send("Ping", PING)


wires = many(range(USERS * EACH), park, 64)
ok(wait_for(lambda: s.parked() == USERS * EACH, 20), f"{USERS * EACH} Pings park", s.parked())
began = time.monotonic()
with smtplib.LMTP("127.0.0.1", s.lmtp) as c:
    for i in range(USERS):
        c.sendmail("bob@example.test", [f"u{i}@example.test"], b"Subject: one\r\n\r\nx\r\n")
answers = note([w.answer(10) for w in wires])
took = time.monotonic() - began
ok([ping_status(a) for a in answers].count("2") == USERS * EACH, "one change each wakes them all", f"{took:.1f} s, " + str({ping_status(a) for a in answers}))
ok(wait_for(lambda: s.parked() == 0, 3), "none hangs any more")
for w in wires:
    w.close()
ok(wait_for(lambda: s.metrics()["roost_connections"] == 0, 10), "and none is left when they are gone")
equal(s.stop(), 0, "it ends in order")

equal(len(ids), len(set(ids)), f"no request id came twice ({len(ids)})")
done()
