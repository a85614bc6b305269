# SPDX-License-Identifier: GPL-3.0-or-later
"""A server whose program can be replaced, for tests of upgrades: it runs a copy of ours."""
import eas
from eas import *

HERE = tempfile.mkdtemp(prefix="roost-bin-")
atexit.register(shutil.rmtree, HERE, ignore_errors=True)
for name in ("roostd", "roostctl"):
    shutil.copy2(f"{eas.BIN}/{name}", HERE)
ORIGINAL = os.path.abspath(f"{eas.BIN}/roostd")
eas.BIN = HERE


class Upgradable(Server):
    def pid(self):
        """Of the process that serves now; in a container as it is there."""
        with open(f"{self.dir}/lock") as f:
            return int(f.readline())

    @staticmethod
    def alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def cleanup(self):
        try:
            pid = self.pid()
            # (in a container the number means another process out here)
            if os.readlink(f"/proc/{pid}/exe").startswith(HERE):
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            pass
        super().cleanup()

    def program(self, text=None, file=ORIGINAL, mode=0o755):
        """Puts a script, or a file (the real one), in the program's place."""
        new = f"{HERE}/.new"
        if text is None:
            shutil.copy2(file, new)
        else:
            with open(new, "w") as f:
                f.write(text)
        os.chmod(new, mode)
        os.replace(new, f"{HERE}/roostd")

    def upgrade(self, *args):
        """(exit code, the answer or what was said)"""
        p = self.ctl("upgrade", "--json", *args)
        if p.returncode:
            return p.returncode, p.stderr.decode().strip()
        return 0, json.loads(p.stdout)
