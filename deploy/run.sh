#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# deploy/run.sh - a server to try things with, in the foreground until Ctrl-C.
# Its store is kept in DATA (build/run), so that phones find their mail again next time.
set -u
BIN=${BIN:-bin}
DATA=${DATA:-build/run}
HTTPS=${HTTPS:-127.0.0.1:8443}
LMTP=${LMTP:-127.0.0.1:8024}
ADMIN=${ADMIN:-127.0.0.1:8080}
USER_NAME=alice@example.test
PASSWORD=secret

for program in roostd roostctl roost-phone; do
	[ -x "$BIN/$program" ] || { echo "run: $BIN/$program is missing: run make" >&2; exit 1; }
done
mkdir -p "$DATA" && chmod 700 "$DATA" || exit 1
DATA=$(cd "$DATA" && pwd)
# 4: the account is there already, from last time.
printf %s "$PASSWORD" | "$BIN/roostctl" --data "$DATA" user add "$USER_NAME" --password-stdin 2>/dev/null
status=$?
[ $status = 0 ] || [ $status = 4 ] || { echo "run: the account was not created" >&2; exit 1; }

cat <<END

  URL       https://$HTTPS/Microsoft-Server-ActiveSync
  account   $USER_NAME, password $PASSWORD
  data      $DATA

  Try in another terminal:
    $BIN/roost-phone --url https://$HTTPS --insecure --user $USER_NAME --password $PASSWORD
    printf 'From: me@example.org\nSubject: Hello\n\nIt works.\n' | $BIN/roostctl --data $DATA deliver $USER_NAME
    curl -s http://$ADMIN/metrics | grep -v '^#'

  Ctrl-C ends it.

END
exec "$BIN/roostd" --data "$DATA" --https "$HTTPS" --lmtp "$LMTP" --admin "$ADMIN" --self-signed
