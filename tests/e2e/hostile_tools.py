# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools made to break servers: testssl.sh must find nothing above low severity (but for what every
self-signed certificate is told), and slowhttptest must not keep a phone from being served."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

s = Server(tls=True, sets=["http.request_timeout_s=5", "http.send_timeout_s=5"])
p = Phone(s).ready()
s.deliver("waits")

with tempfile.TemporaryDirectory() as d:
    out = os.path.join(d, "findings.json")
    run = subprocess.run(["testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "-p", "-s", "-f", "-P", "-U",
                          "--jsonfile", out, f"127.0.0.1:{s.https}"], capture_output=True,
                         timeout=220 * int(os.environ.get("PATIENCE", "1")))
    findings = json.load(open(out)) if os.path.exists(out) else []
seen = {f["id"]: f for f in findings}
bad = [f for f in findings if f["severity"] in ("MEDIUM", "HIGH", "CRITICAL") and not f["id"].startswith("cert")]
ok(seen.get("TLS1_3", {}).get("severity") == "OK" and "heartbleed" in seen, "testssl.sh has run its checks", run.stdout.decode()[-800:])
ok(findings and not bad, "and finds nothing above low severity", bad)
ok(seen.get("TLS1_1", {}).get("finding", "").startswith("not offered") and seen.get("SSLv3", {}).get("finding", "").startswith("not offered"),
   "nothing older than TLS 1.2 is offered", (seen.get("TLS1_1"), seen.get("SSLv3")))

for flag, name in (("-H", "slow heads"), ("-B", "slow bodies"), ("-X", "slow readers")):
    attack = subprocess.Popen(["slowhttptest", flag, "-c", "600", "-r", "300", "-i", "1", "-l", "7", "-p", "2", "-w", "10", "-y", "20", "-n", "1", "-z", "8", "-k", "3",
                               "-u", f"http://127.0.0.1:{s.http}{PATH}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(2.5)
    t = time.monotonic()
    a = p.ping(60)
    took = time.monotonic() - t
    conns = s.metrics()["roost_connections"]
    text = attack.communicate(timeout=60)[0].decode(errors="replace")
    ok(a.status == 200 and took < 1.0, f"a phone is served at once among {name}", f"{a} {took}")
    if flag == "-H":
        ok(conns > 100, "while hundreds of them hang about", conns)
ok(wait_for(lambda: s.metrics()["roost_connections"] <= 3, 15), "nothing of them is left", s.metrics())
ok(s.p.poll() is None, "the server stands")
done()
