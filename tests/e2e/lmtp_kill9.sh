#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# No mail that got its 250 is lost or doubled: clients deliver at full speed, the server is killed
# with SIGKILL at random moments, and after each restart every 250 is there exactly once.
#   ROUNDS=n  how often (10)
set -u
B=${B:-build/gcc}
serve=$B/tests/core/lmtp_serve
[ -x "$serve" ] || { echo "1..0 # SKIP $serve is not built"; exit 0; }
command -v python3 >/dev/null || { echo "1..0 # SKIP python3 is missing"; exit 0; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
timeout -k 5 200 python3 - "$serve" "$dir" "${ROUNDS:-10}" <<'PY'
import collections, random, socket, subprocess, sys, threading, time

serve, folder, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = folder + "/store"
users = ["u%d@example.test" % i for i in range(4)]
acknowledged = collections.Counter()  # (message id, user)
lock = threading.Lock()
ids = 0
transactions = 0


def next_id():
    global ids
    with lock:
        ids += 1
        return "m%d@example.com" % ids


class Client(threading.Thread):
    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.start()

    def reply(self):
        while True:
            line = self.f.readline()
            if not line.endswith(b"\r\n"):
                raise OSError("gone")
            if line[3:4] == b" ":
                return line.decode()

    def say(self, text):
        self.s.sendall(text.encode())
        return self.reply()

    def run(self):
        global transactions
        try:
            self.s = socket.create_connection(("127.0.0.1", self.port), 20)
            self.f = self.s.makefile("rb")
            self.reply()
            self.say("LHLO x\r\n")
            while True:
                to = random.sample(users, random.choice((1, 1, 2, 4)))
                mid = next_id()
                body = "Message-ID: <%s>\r\nSubject: x\r\n\r\n%s\r\n" % (mid, "x" * random.randrange(20000))
                # A pipelining client: the envelope in one piece.
                self.s.sendall(("MAIL FROM:<a@example.com>\r\n" +
                                "".join("RCPT TO:<%s>\r\n" % u for u in to)).encode())
                self.reply()
                for u in to:
                    if not self.reply().startswith("250"):
                        raise AssertionError("recipient refused")
                if random.random() < 0.5:
                    self.say("DATA\r\n")
                    self.s.sendall((body + ".\r\n").encode())
                else:
                    self.s.sendall(("BDAT %d LAST\r\n%s" % (len(body), body)).encode())
                for u in to:
                    if self.reply().startswith("250 2.0.0"):
                        with lock:
                            acknowledged[(mid, u)] += 1
                with lock:
                    transactions += 1
        except (OSError, ValueError):
            pass  # killed


def start():
    p = subprocess.Popen([serve, store] + users, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    port = 0
    for line in p.stdout:
        if line.startswith(b"port "):
            port = int(line.split()[1])
        if line == b"ready\n":
            return p, port
    raise SystemExit("Bail out! the server does not start")


def listing(user):
    return subprocess.run([serve, "--list", user, store], stdout=subprocess.PIPE, check=True,
                          timeout=60).stdout.decode().split()


print("1..%d" % (rounds + 1))
random.seed()
problems = 0
for r in range(rounds):
    p, port = start()
    clients = [Client(port) for _ in range(6)]
    before = transactions
    time.sleep(random.uniform(0.05, 1.5))
    p.kill()
    p.wait()
    p.stdin.close()
    for c in clients:
        c.join(20)
    stored = collections.Counter((m, u) for u in users for m in listing(u))
    lost = [k for k in acknowledged if stored[k] == 0]
    doubled = [k for k in stored if stored[k] > 1]
    ok = not lost and not doubled
    problems += not ok
    print("%s %d - killed after %d transactions: %d acknowledged, %d stored" % (
        "ok" if ok else "not ok", r + 1, transactions - before, len(acknowledged), len(stored)))
    for k in lost[:5]:
        print("# lost:", *k)
    for k in doubled[:5]:
        print("# doubled:", *k)
    sys.stdout.flush()
p, port = start()
p.stdin.close()
code = p.wait(30)
print("%s %d - %d transactions were acknowledged, and the server ends in order" % (
    "ok" if code == 0 and transactions > rounds else "not ok", rounds + 1, transactions))
sys.exit(1 if problems else 0)
PY
