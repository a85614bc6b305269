# SPDX-License-Identifier: GPL-3.0-or-later
"""What the end-to-end tests share: a real server, curl as the phone's HTTP, libwbxml's tools as a
judge of WBXML that we did not write, and TAP output. Everything started here is ended by its pid."""
import atexit, base64, json, os, re, signal, socket, subprocess, sys, tempfile, threading, time
import shutil
import xml.etree.ElementTree as ET

BIN = os.environ.get("BIN", "bin")
PATH = "/Microsoft-Server-ActiveSync"
TYPE = "application/vnd.ms-sync.wbxml"

_count = 0
_failed = 0


def ok(condition, name, detail=""):
    global _count, _failed
    _count += 1
    if condition:
        print(f"ok {_count} - {name}", flush=True)
    else:
        _failed += 1
        print(f"not ok {_count} - {name}", flush=True)
        for line in str(detail).splitlines()[:40]:
            print("#   " + line, flush=True)
    return bool(condition)


def equal(got, want, name):
    return ok(got == want, name, f"got  {got!r}\nwant {want!r}")


def done():
    print(f"1..{_count}", flush=True)
    sys.exit(1 if _failed else 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, seconds=10.0):
    """Polls a condition: bounded, and returns as soon as it holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        v = what()
        if v:
            return v
        time.sleep(0.01)
    return what()


# ---- WBXML by libwbxml ----------------------------------------------------------------------------

_HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<!DOCTYPE ActiveSync PUBLIC "-//MICROSOFT//DTD ActiveSync//EN" "http://www.microsoft.com/">'
)


def _tool(args, data):
    with tempfile.TemporaryDirectory() as d:
        i, o = os.path.join(d, "in"), os.path.join(d, "out")
        with open(i, "wb") as f:
            f.write(data)
        p = subprocess.run(args + ["-o", o, i], capture_output=True)
        if p.returncode or not os.path.exists(o):
            raise ValueError(f"{args[0]}: {p.stdout.decode()} {p.stderr.decode()}")
        with open(o, "rb") as f:
            return f.read()


def wbxml(text):
    """'<Ping:Ping><Ping:Status>1</Ping:Status></Ping:Ping>' -> WBXML. Prefixes are namespaces; a
    tag without one takes that of its parent."""
    out, stack = [], []
    for m in re.finditer(r"<(/?)([A-Za-z0-9:]+)(/?)>|([^<]+)", text):
        close, tag, empty, chars = m.groups()
        if chars is not None:
            if chars.strip():
                out.append(chars)
            continue
        if close:
            out.append(f"</{stack.pop()[1]}>")
            continue
        ns, name = tag.split(":") if ":" in tag else (stack[-1][0], tag)
        out.append(f'<{name} xmlns="{ns}:"' + ("/>" if empty else ">"))
        if not empty:
            stack.append((ns, name))
    raw = _tool(["xml2wbxml", "-a", "-n", "-v", "1.3"], (_HEAD + "".join(out)).encode())
    return raw


class Node:
    """A decoded element: name, text, children; n['A/B'] finds texts by path of names."""

    def __init__(self, e):
        self.name = e.tag.split("}")[-1]
        self.text = e.text or ""
        self.children = [Node(c) for c in e]

    def all(self, path):
        found = [self]
        for name in path.split("/"):
            found = [c for n in found for c in n.children if c.name == name]
        return found

    def one(self, path):
        found = self.all(path)
        return found[0] if found else None

    def __getitem__(self, path):
        n = self.one(path)
        return n.text if n else None

    def __repr__(self):
        inner = self.text.strip() + "".join(map(repr, self.children))
        return f"<{self.name}>{inner}</{self.name}>"


def xml(data):
    """WBXML -> Node, by wbxml2xml."""
    if not data:
        return None
    text = _tool(["wbxml2xml", "-l", "ACTIVESYNC", "-k"], data)
    return Node(ET.fromstring(re.sub(rb"<!DOCTYPE[^>]*>", b"", text)))


# What thousands of phones send, encoded once.
FOLDER_SYNC_0 = wbxml("<FolderHierarchy:FolderSync><SyncKey>0</SyncKey></FolderHierarchy:FolderSync>")
SYNC_0 = wbxml("<AirSync:Sync><Collections><Collection><SyncKey>0</SyncKey><CollectionId>1</CollectionId>"
               "</Collection></Collections></AirSync:Sync>")


# ---- the server ------------------------------------------------------------------------------------

class Server:
    def __init__(self, *extra, users=("alice@example.test",), policy=False, sets=(), data=None,
                 tls=False, start=True, env=None, before=()):
        self.dir = data or tempfile.mkdtemp(prefix="roost-e2e-")
        self.own_dir = data is None
        self.http, self.https, self.lmtp, self.admin = (free_port() for _ in range(4))
        self.sets = ["auth.hash_cost=minimal"] + ([] if policy else ["policy.require=false"])
        self.sets += list(sets)
        self.extra, self.tls, self.before = list(extra), tls, list(before)
        self.env = dict(os.environ, **(env or {}))
        self.p = None
        self.log = []
        atexit.register(self.cleanup)
        for u in users:
            self.ctl("user", "add", u, "--password-stdin", input="secret", check=True)
        if start:
            self.start()

    def start(self, wait=20):
        cmd = [*self.before, f"{BIN}/roostd", "--data", self.dir, "--http", f"127.0.0.1:{self.http}",
               "--lmtp", f"127.0.0.1:{self.lmtp}", "--admin", f"127.0.0.1:{self.admin}"]
        if self.tls:
            cmd += ["--https", f"127.0.0.1:{self.https}", "--self-signed"]
        for s in self.sets:
            cmd += ["--set", s]
        self.p = subprocess.Popen(cmd + self.extra, stderr=subprocess.PIPE, env=self.env)
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.p,), daemon=True)
        self.reader.start()
        if not self.ready.wait(wait) or self.p.poll() is not None:
            raise RuntimeError("roostd did not start:\n" + "\n".join(self.log))
        return self

    def _read(self, p):
        for line in p.stderr:
            line = line.decode(errors="replace").rstrip()
            self.log.append(line)
            if line == "roostd ready":
                self.ready.set()
        self.ready.set()

    def stop(self, sig=signal.SIGTERM, wait=30):
        if self.p and self.p.poll() is None:
            self.p.send_signal(sig)
            self.p.wait(wait)
        code = self.p.returncode if self.p else None
        if self.p:
            self.reader.join(5)
        return code

    def refused(self, *extra, wait=20, before=(), env=None):
        """Starts a server that must not come up: exit code and what it said, without log lines."""
        cmd = list(before) + [f"{BIN}/roostd", "--data", self.dir, *extra]
        try:
            p = subprocess.run(cmd, capture_output=True, timeout=wait, env=dict(self.env, **(env or {})))
        except subprocess.TimeoutExpired:
            return None, ["it came up"]
        said = [l for l in p.stderr.decode(errors="replace").splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", l)]
        return p.returncode, said

    def cleanup(self):
        if self.p and self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def ctl(self, *args, input=None, check=False):
        env = dict(self.env, ROOST_AUTH_HASH_COST="minimal")
        p = subprocess.run([f"{BIN}/roostctl", "--data", self.dir, *args], env=env,
                           input=input if isinstance(input, (bytes, type(None))) else input.encode(),
                           capture_output=True, timeout=30)
        if check and p.returncode:
            raise RuntimeError(f"roostctl {args}: {p.stdout.decode()} {p.stderr.decode()}")
        return p

    def ctl_json(self, *args):
        out = self.ctl(*args, "--json", check=True).stdout.decode().strip()
        if not out:
            return []
        try:
            v = json.loads(out)
            return v if isinstance(v, list) else [v]
        except ValueError:
            return [json.loads(line) for line in out.splitlines()]

    def deliver(self, subject="hello", body="first line\r\n", to="alice@example.test", headers=""):
        message = (f"From: Bob <bob@example.test>\r\nTo: {to}\r\nSubject: {subject}\r\n"
                   f"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{time.time_ns()}@example.test>\r\n"
                   f"{headers}\r\n{body}")
        return self.ctl("deliver", to, input=message.encode(), check=True)

    def metrics(self):
        text = subprocess.run(["curl", "-s", f"http://127.0.0.1:{self.admin}/metrics"],
                              capture_output=True).stdout.decode()
        return {l.rsplit(" ", 1)[0]: float(l.rsplit(" ", 1)[1])
                for l in text.splitlines() if l and not l.startswith("#")}

    def books(self):
        """Every connection and every hanging request is one of these: pairs that must be equal."""
        m = self.metrics()
        total = lambda name: sum(v for k, v in m.items() if k.split("{")[0] == "roost_" + name)
        return ((total("connections_accepted_total") + total("connections_adopted_total"),
                 total("connections_closed_total") + total("connections")),
                (total("requests_parked_total"), total("wakes_total") + total("parked_requests")))

    def parked(self):
        m = self.metrics()
        return int(m['roost_parked_requests{cmd="Ping"}'] + m['roost_parked_requests{cmd="Sync"}'])


# ---- the phone: curl -------------------------------------------------------------------------------

class Answer:
    def __init__(self, raw, code=0):
        self.curl = code
        self.status, self.headers, self.body = 0, {}, b""
        self.interim = 0
        while raw.startswith(b"HTTP/"):
            head, _, raw = raw.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            self.status = int(lines[0].split()[1])
            self.headers = {l.split(":", 1)[0].lower(): l.split(":", 1)[1].strip() for l in lines[1:]}
            if self.status == 100:
                self.interim += 1
            else:
                break
        self.body = raw

    @property
    def xml(self):
        return xml(self.body)

    def __repr__(self):
        return f"HTTP {self.status} {self.headers} {self.body[:300]!r}"


class Phone:
    def __init__(self, server, user="alice@example.test", password="secret", device="phone1",
                 version="14.1", kind="SP", key=None, agent="e2e/1"):
        self.s, self.user, self.password, self.device = server, user, password, device
        self.version, self.kind, self.key, self.agent = version, kind, key, agent
        self.keys = {}
        self.hierarchy = "0"

    def args(self, cmd, body, extra=(), wait=40):
        url = f"http://127.0.0.1:{self.s.http}" if not self.s.tls else f"https://127.0.0.1:{self.s.https}"
        a = ["curl", "-sS", "-k", "-i", "--raw", "--max-time", str(wait), "-u", f"{self.user}:{self.password}",
             "-H", "Expect:", "-A", self.agent,
             "-H", f"MS-ASProtocolVersion: {self.version}", "-X", "POST"]
        if self.key is not None:
            a += ["-H", f"X-MS-PolicyKey: {self.key}"]
        if body:
            a += ["-H", f"Content-Type: {TYPE}", "--data-binary", "@-"]
        else:
            a += ["-H", "Content-Length: 0"]
        return a + list(extra) + [f"{url}{PATH}?Cmd={cmd}&User=x&DeviceId={self.device}&DeviceType={self.kind}"]

    def post(self, cmd, body=b"", extra=(), wait=40):
        if isinstance(body, str):
            body = wbxml(body)
        p = subprocess.run(self.args(cmd, body, extra, wait), input=body, capture_output=True)
        a = Answer(p.stdout, p.returncode)
        a.error = p.stderr.decode()
        return a

    def hang(self, cmd, body=b"", wait=100):
        """The same, not waited for: a Hanging with .answer()."""
        if isinstance(body, str):
            body = wbxml(body)
        p = subprocess.Popen(self.args(cmd, body, (), wait), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdin.write(body)
        p.stdin.close()
        p.stdin = None
        return Hanging(p)

    # -- commands ----------------------------------------------------------------------------------

    def provision(self):
        info = ("<Settings:DeviceInformation><Set><Model>X1</Model></Set></Settings:DeviceInformation>"
                if float(self.version) >= 14.1 else "")
        self.key = "0"
        a = self.post("Provision", f"<Provision:Provision>{info}<Policies><Policy><PolicyType>"
                      "MS-EAS-Provisioning-WBXML</PolicyType></Policy></Policies></Provision:Provision>")
        temporary = a.xml["Policies/Policy/PolicyKey"]
        self.key = temporary
        b = self.post("Provision", "<Provision:Provision><Policies><Policy><PolicyType>"
                      f"MS-EAS-Provisioning-WBXML</PolicyType><PolicyKey>{temporary}</PolicyKey>"
                      "<Status>1</Status></Policy></Policies></Provision:Provision>")
        self.key = b.xml["Policies/Policy/PolicyKey"]
        return a, b

    def folder_sync(self, key=None):
        a = self.post("FolderSync", "<FolderHierarchy:FolderSync><SyncKey>"
                      f"{key or self.hierarchy}</SyncKey></FolderHierarchy:FolderSync>")
        if a.status == 200 and a.xml["Status"] == "1":
            self.hierarchy = a.xml["SyncKey"]
        return a

    def sync_body(self, folder, inner="", options="", after="", key=None):
        k = key if key is not None else self.keys.get(folder, "0")
        cls = "<Class>Email</Class>" if self.version == "12.1" else ""
        return (f"<AirSync:Sync><Collections><Collection>{cls}<SyncKey>{k}</SyncKey>"
                f"<CollectionId>{folder}</CollectionId>{options}{inner}</Collection></Collections>"
                f"{after}</AirSync:Sync>")

    def sync(self, folder="1", inner="", options="", after="", key=None):
        a = self.post("Sync", self.sync_body(folder, inner, options, after, key))
        if a.status == 200 and a.body:
            c = a.xml.one("Collections/Collection")
            if c and c["Status"] == "1" and c["SyncKey"]:
                self.keys[folder] = c["SyncKey"]
        return a

    def sync_all(self, folder="1", options=""):
        """Primes and drains a folder; returns ServerIds that were added."""
        found = []
        if folder not in self.keys:
            self.sync(folder, key="0")
        while True:
            a = self.sync(folder, options=options)
            if not a.body:
                return found
            c = a.xml.one("Collections/Collection")
            found += [n["ServerId"] for n in c.all("Commands/Add")]
            if not c.one("MoreAvailable"):
                return found

    def ready(self, folders=("1",)):
        """Does what a phone does before its first Ping."""
        self.folder_sync()
        for f in folders:
            self.sync_all(f)
        return self

    @staticmethod
    def ping_body(seconds=None, folders=("1",), cls="Email"):
        out = "<Ping:Ping>"
        if seconds is not None:
            out += f"<HeartbeatInterval>{seconds}</HeartbeatInterval>"
        if folders is not None:
            out += "<Folders>" + "".join(f"<Folder><Id>{f}</Id><Class>{cls}</Class></Folder>"
                                         for f in folders) + "</Folders>"
        return out + "</Ping:Ping>"

    def ping(self, seconds=900, folders=("1",), cls="Email"):
        return self.post("Ping", self.ping_body(seconds, folders, cls))

    def hang_ping(self, seconds=900, folders=("1",)):
        before = self.s.parked()
        h = self.hang("Ping", self.ping_body(seconds, folders))
        h.parked = wait_for(lambda: self.s.parked() > before or h.p.poll() is not None)
        return h


class Wire:
    """A phone's connection as a raw socket: many of them cost little, and requests go out exactly when
    they are told to. `source` is one of the addresses 127.0.0.x, so that ports do not run out."""

    def __init__(self, server, user="alice@example.test", password="secret", device="phone1",
                 version="14.1", source="127.0.0.1", tls=None, key=None):
        self.s, self.device, self.version, self.key = server, device, version, key
        b = lambda v: v if isinstance(v, bytes) else v.encode()
        self.auth = base64.b64encode(b(user) + b":" + b(password)).decode()
        self.c = socket.create_connection(("127.0.0.1", server.https if tls else server.http), 30, (source, 0))
        if tls:
            self.c = tls.wrap_socket(self.c)
        self.buffer = b""

    def send(self, cmd, body=b"", headers="", cut=None):
        """Writes a request (its first `cut` bytes)."""
        if isinstance(body, str):
            body = wbxml(body)
        head = (f"POST {PATH}?Cmd={cmd}&User=x&DeviceId={self.device}&DeviceType=SP HTTP/1.1\r\n"
                f"Host: mail.example.test\r\nAuthorization: Basic {self.auth}\r\n"
                f"MS-ASProtocolVersion: {self.version}\r\nContent-Length: {len(body)}\r\n"
                + (f"Content-Type: {TYPE}\r\n" if body else "")
                + (f"X-MS-PolicyKey: {self.key}\r\n" if self.key is not None else "") + headers + "\r\n")
        data = head.encode() + body
        self.c.sendall(data[:cut])
        self.rest = data[cut:] if cut is not None else b""
        return self

    def answer(self, wait=20):
        """One answer; status 0 when the connection ended or time was up first."""
        until = time.monotonic() + wait
        while True:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            m = re.search(rb"content-length: *(\d+)", head, re.I)
            n = int(m.group(1)) if m else 0
            if end and len(rest) >= n:
                self.buffer = rest[n:]
                return Answer(head + end + rest[:n])
            try:
                self.c.settimeout(max(0.001, until - time.monotonic()))
                b = self.c.recv(65536)
            except OSError:
                b = b""
            if not b:
                return Answer(b"")
            self.buffer += b

    def post(self, cmd, body=b"", headers="", wait=20):
        try:
            self.send(cmd, body, headers)
        except OSError:
            pass
        return self.answer(wait)

    def ready(self):
        """What comes before a first Ping of the inbox, which must be empty."""
        self.post("FolderSync", FOLDER_SYNC_0)
        return self.post("Sync", SYNC_0)

    def silent(self):
        """Nothing came, and the connection stands."""
        self.c.setblocking(False)
        try:
            b = self.c.recv(65536)
            self.buffer += b
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self):
        self.c.close()


def ping_status(answer):
    """Status of a Ping's answer without a judge: for thousands of them."""
    m = re.match(rb"\x03\x01j\x00\x00\x0dEG\x03(\d+)\x00\x01", answer.body)
    return m.group(1).decode() if answer.status == 200 and m else f"HTTP {answer.status}"


class Hanging:
    def __init__(self, p):
        self.p = p
        self.start = time.monotonic()

    def answer(self, wait=20):
        try:
            out, err = self.p.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            self.p.kill()
            out, err = self.p.communicate()
            a = Answer(b"")
            a.curl = -1
            a.error = "no answer in time"
            a.seconds = time.monotonic() - self.start
            return a
        a = Answer(out, self.p.returncode)
        a.error = err.decode()
        a.seconds = time.monotonic() - self.start
        return a

    def hang_up(self):
        self.p.kill()
        self.p.wait()
