# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that measure: roost-phone does every verb, and roost-bench's books agree in a day, over a crash and
over upgrades."""
import json, os, subprocess, sys, tempfile
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
def bench(*arguments):
    with tempfile.NamedTemporaryFile("r", dir=s.dir) as out:
        p = subprocess.run([os.path.join(BIN, "roost-bench"), "--spawn", "--json", out.name, *arguments],
                           capture_output=True, timeout=200)
        figures = {}
        for l in out:
            o = json.loads(l)
            if "value" in o:
                figures[o["name"]] = o
    return p.returncode, figures, p.stderr.decode()[-2000:]

code, f, why = bench("-n", "600", "--seconds", "12", "day")
ok(code == 0 and f, "a day of 600 phones succeeds", why)
nothing = ("books_broken", "missed", "told_too_often", "connections_leaked", "dead_left", "lost")
equal([f["day_" + n]["value"] for n in nothing], [0] * len(nothing),
      "nothing is missed, told twice, leaked or lost, and phones and server agree in their books")
ok(f["day_superseded"]["value"] > 0 and f["day_newer_hung"]["value"] > 0, "newer Pings ended older ones and hung", f)
ok(f["day_vanished"]["value"] > 0, "phones vanished and came back", f)
code, f, why = bench("-n", "400", "--users", "200", "crash")
ok(code == 0 and f, "a crash with 400 phones succeeds", why)
equal((f["crash_lost"]["value"], f["crash_doubled"]["value"], f["crash_told"]["value"], f["crash_woken_after"]["value"]),
      (0, 0, f["crash_told"]["n"], f["crash_told"]["n"]), "mail of before and meanwhile reaches every phone, once")
code, f, why = bench("-n", "1500", "--upgrades", "3", "--changes", "500", "upgrade")
ok(code == 0 and f, "three upgrades under 1500 phones while changes come succeed", why)
equal([f["upgrade_" + n]["value"] for n in ("lost", "missed", "doubled")], [0] * 3, "no connection is lost, no wake missed or doubled")
ok(f["upgrade_pause"]["value"] > 0 and f["upgrade_commit_to_phone_p50"]["n"] > 1000, "and the pause is told", f)
done()
