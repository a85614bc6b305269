# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that measure: roost-phone does every verb, and roost-bench's books agree in a day, over a crash and
over upgrades."""
import contextlib, json, os, signal, socket, subprocess, sys, tempfile, threading
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

# ---- roost-phone ----------------------------------------------------------------------------------------
s = Server(tls=True)
state = os.path.join(s.dir, "phone.json")

def phone(*verbs, options=(), user="alice@example.test", password=None):
    """Its lines, by step and event, and the exit code."""
    p = subprocess.run([os.path.join(BIN, "roost-phone"), "--url", f"https://127.0.0.1:{s.https}", "--insecure",
                        "--user", user, "--password", password or "secret", "--json", "--state", state,
                        *options, *verbs], capture_output=True, timeout=60)
    lines = [json.loads(l) for l in p.stdout.decode().splitlines()]
    return p.returncode, {(l["step"], l["event"]): l for l in lines}, lines

code, seen, lines = phone("options", "provision", "foldersync", "sync", "settings")
ok(code == 0 and not [l for l in lines if l["event"] == "failed"], "a new phone does options, provision, foldersync, sync, settings", lines)
s.deliver("for the phone")
code, seen, lines = phone("ping", "sync", "estimate", "fetch", "mark-read", "delete", "disconnect", "sync")
ok(code == 0 and not [l for l in lines if l["event"] == "failed"], "it is told of mail, fetches it, marks and deletes it", lines)
ok(any("for the phone" in json.dumps(l) for l in lines), "and shows its subject", lines)
code, seen, lines = phone("ping", "ping-cached", options=("--heartbeat", "60", "--timeout", "1", "--keep-going"), password="wrong")
equal(code, 4, "a wrong password is exit code 4")
equal(subprocess.run([os.path.join(BIN, "roost-phone"), "dance"], capture_output=True).returncode, 2, "a wrong verb is exit code 2")
s.stop()

# ---- roost-bench ----------------------------------------------------------------------------------------
bare = []


def bench(*arguments):
    with tempfile.NamedTemporaryFile("r", dir=s.dir) as out:
        p = subprocess.run([os.path.join(BIN, "roost-bench"), "--spawn", "--json", out.name, *arguments],
                           capture_output=True, timeout=200)
        figures = {}
        for l in out:
            o = json.loads(l)
            if not {"cpu", "cores", "kernel"} <= set(o["machine"]) or not o["commit"] or "phones" not in o["settings"]:
                bare.append(o)
            if "value" in o:
                figures[o["name"]] = o
    return p.returncode, figures, p.stderr.decode()[-20000:]

# ---- what is wrong is said before anything is measured ----------------------------------------------------
class Other(threading.Thread):
    """A server that is none of ours: says `answer` to whoever has asked, or to whoever comes."""
    def __init__(self, answer, first=False):
        super().__init__(daemon=True)
        self.answer, self.first, self.c = answer, first, socket.create_server(("127.0.0.1", 0))
        self.start()

    def run(self):
        while True:
            c, _ = self.c.accept()
            with c, contextlib.suppress(OSError):
                if not self.first:
                    c.recv(65536)
                c.sendall(self.answer)
                c.recv(65536)

    def url(self, scheme="http"):
        return f"{scheme}://127.0.0.1:{self.c.getsockname()[1]}"


def http(status, *headers):
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]).encode()


def wrong(name, expect, *arguments, code=1):
    p = subprocess.run([os.path.join(BIN, "roost-bench"), "-n", "20", "--idle", "1", "--json", "none", *arguments],
                       capture_output=True, timeout=60)
    said = p.stderr.decode()
    ok(p.returncode == code and expect in said and p.stdout == b"" and "parking" not in said, f"roost-bench: {name}",
       f"{p.returncode}: {said[-500:]}")


s = Server(tls=True)
ours = f"https://127.0.0.1:{s.https}"
mine = ("--account", "alice%d@example.test", "--password", "secret", "--prime")
wrong("nobody listens", "does the server run", "--url", f"https://127.0.0.1:{free_port()}", *mine, "hold")
wrong("no ActiveSync there", "is it an ActiveSync server", "--url", Other(http("404 Not Found")).url(), *mine, "hold")
wrong("another 200", "not as an ActiveSync server", "--url", Other(http("200 OK")).url(), *mine, "hold")
wrong("a redirection", "on to https://else.example/", "--url",
      Other(http("302 Found", "Location: https://else.example/")).url(), *mine, "hold")
wrong("another version", "--protocol-version", "--url",
      Other(http("200 OK", "MS-ASProtocolVersions: 2.5,12.1")).url(), *mine, "hold")
wrong("another proof", "another proof", "--url",
      Other(http("401 No", "WWW-Authenticate: Negotiate")).url(), *mine, "hold")
wrong("no HTTP", "as it should", "--url", Other(b"220 mail.example ESMTP\r\n").url(), *mine, "hold")
wrong("no TLS", "no TLS with", "--url", Other(b"220 mail.example ESMTP\r\n").url("https"), *mine, "hold")
wrong("no IMAP", "does not greet", "--url", Other(b"220 mail.example ESMTP\r\n", first=True).url("imap"), "hold")
wrong("TLS on that port", "want https", "--url", ours.replace("https", "http"), *mine, "hold")
wrong("an account that is not there", "alice0@example.test with its password", "--url", ours, *mine, "hold")
wrong("a certificate that nobody signed", "signed by --ca", "--url", ours, "--ca",
      "/etc/ssl/certs/ca-certificates.crt", *mine, "hold")
wrong("no such process", "no process", "--url", ours, "--pid", "4000000", *mine, "hold", code=2)
wrong("a path that is not used", "no path", "--url", ours + "/owa", *mine, "hold", code=2)
wrong("a port that is none", "proper port", "--url", "https://127.0.0.1:99999", *mine, "hold", code=2)
wrong("a file that cannot be written", "--json: /no/such", "--spawn", "--json", "/no/such/file", "hold", code=2)
s.ctl("user", "add", "alice0@example.test", "--password-stdin", input="secret", check=True)
wrong("metrics of something else", "is not roostd's", "--url", ours, "--metrics", Other(http("200 OK")).url() + "/metrics",
      *mine, "hold")


def goes(name, said, expect, *arguments):
    """The server is killed as soon as that was said."""
    p = subprocess.Popen([os.path.join(BIN, "roost-bench"), "--url", ours, *mine, "--json", "none", *arguments],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    for l in p.stderr:
        lines.append(l)
        if said in l:
            s.stop(signal.SIGKILL)
    ok(p.wait(60) == 1 and expect in lines[-1] + lines[-2], f"roost-bench: {name}", "".join(lines[-5:]))
    s.start()


goes("a server that goes while phones hang", "watching the idle server", "0 of 1 Pings still hang", "-n", "1", "--idle", "2", "hold")
goes("a server that goes amid handshakes", "handshake: 1 of", "connections failed", "--visits", "3000000", "handshake")
s.stop()

code, f, why = bench("-n", "600", "--seconds", "12", "day")
ok(code == 0 and f, "a day of 600 phones succeeds", why)
nothing = ("books_broken", "missed", "told_too_often", "connections_leaked", "dead_left", "lost")
equal([f["day_" + n]["value"] for n in nothing], [0] * len(nothing),
      "nothing is missed, told twice, leaked or lost, and phones and server agree in their books")
ok(f["day_superseded"]["value"] > 0 and f["day_newer_hung"]["value"] > 0, "newer Pings ended older ones and hung", f)
if "no phone vanishes" in why:  # before Linux 6.7
    equal(f["day_vanished"]["value"], 0, "no phone vanished")
else:
    ok(f["day_vanished"]["value"] > 0, "phones vanished and came back", f)
code, f, why = bench("-n", "400", "--users", "200", "crash")
ok(code == 0 and f, "a crash with 400 phones succeeds", why)
equal((f["crash_lost"]["value"], f["crash_doubled"]["value"], f["crash_told"]["value"], f["crash_woken_after"]["value"]),
      (0, 0, f["crash_told"]["n"], f["crash_told"]["n"]), "mail of before and meanwhile reaches every phone, once")
code, f, why = bench("-n", "1500", "--upgrades", "3", "--changes", "500", "upgrade")
ok(code == 0 and f, "three upgrades under 1500 phones while changes come succeed", why)
equal([f["upgrade_" + n]["value"] for n in ("lost", "missed", "doubled")], [0] * 3, "no connection is lost, no wake missed or doubled")
ok(f["upgrade_pause"]["value"] > 0 and f["upgrade_commit_to_phone_p50"]["n"] > 1000, "and the pause is told", f)
equal(bare, [], "every line of figures names machine, commit and settings")
done()
