#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Every verb of roostctl: with the server off, then with a stand-in for it. TAP.
#   tests/e2e/roostctl.sh [folder of the programs]
set -u
bin=${1:-${BIN:-bin}}
fixture=${ADMIN_FIXTURE:-${B:-build/gcc}/tests/e2e/admin-fixture}
dir=$(mktemp -d) || exit 1
data=$dir/data
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
export ROOST_AUTH_HASH_COST=minimal
unset ROOST_STORE_DIR

n=0 bad=0
result() { # 0 or not, name
	n=$((n + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		sed 's/^/# out: /' "$dir/out"
		sed 's/^/# err: /' "$dir/err"
		bad=$((bad + 1))
	fi
}
ctl() {
	timeout 20 "$bin/roostctl" --data "$data" "$@" > "$dir/out" 2> "$dir/err"
}
# exits CODE NAME ARGUMENTS...: standard input is the caller's
exits() {
	want=$1 name=$2
	shift 2
	ctl "$@"
	got=$?
	[ "$got" -eq "$want" ] || echo "# exit $got, wanted $want: roostctl $*"
	result $((got != want)) "$name"
}
out_has() { # pattern, name
	grep -Eq -- "$1" "$dir/out"
	result $? "$2"
}
err_has() {
	grep -Eq -- "$1" "$dir/err"
	result $? "$2"
}
json() { # filter that must be true, name
	jq -e "$1" "$dir/out" > /dev/null 2>> "$dir/err"
	result $? "$2"
}
verify() { # address, password, answer
	[ "$(printf '%s\n' "$2" | "$fixture" "$data" verify "$1")" = "$3" ]
	result $? "the password of $1 is $3"
}

# --- help and usage
exits 0 "help" --help
out_has 'Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found' "help lists the exit codes"
for verb in "user add" "user list" "user passwd" "user disable" "user enable" "user del" deliver \
	change "device list" "device show" "device remove" "device block" "device unblock" "ping list" \
	top why stats health reload stop backup check "config check" "config show" "config example" \
	"config man"; do
	# shellcheck disable=SC2086
	exits 0 "help of $verb" $verb --help
done
exits 0 "version" --version
exits 2 "no verb" < /dev/null
exits 2 "unknown verb" frobnicate
exits 2 "half a verb" user
exits 2 "unknown second word" user frobnicate
exits 2 "unknown option" user list --frobnicate
exits 2 "option of another verb" user list --folder x
exits 2 "missing argument" user add
exits 2 "too many arguments" user list x
exits 2 "limit out of range" ping list --limit x

# --- without a store
exits 1 "no store" user list
err_has 'cannot open the store' "no store is said"
exits 5 "no server" ping list
err_has 'server is not running' "no server is said"

# --- users
exits 0 "user list --help needs no store" user list --help
printf 'secret\n' > "$dir/text"
exits 0 "user add makes the store" user add Anna@Example.test --password-stdin --name 'Änne <A>' < "$dir/text"
printf 'secret\n' > "$dir/text"
exits 4 "user add twice" user add anna@example.test --password-stdin < "$dir/text"
printf 'secret\n' > "$dir/text"
exits 2 "user add of no address" user add anna --password-stdin < "$dir/text"
printf '\n' > "$dir/text"
exits 2 "an empty password" user add x@example.test --password-stdin < "$dir/text"
printf '' > "$dir/text"
exits 2 "no password" user add x@example.test --password-stdin < "$dir/text"
printf 'a\0b\n' > "$dir/text"
exits 2 "a NUL in a password" user add x@example.test --password-stdin < "$dir/text"
head -c 400 /dev/zero | tr '\0' x > "$dir/text"
exits 2 "a password too long" user add x@example.test --password-stdin < "$dir/text"
exits 2 "a name that is no UTF-8" user add x@example.test --password-stdin --name "$(printf '\377')"
setsid true 2>/dev/null && {
	timeout 20 setsid "$bin/roostctl" --data "$data" user add x@example.test < /dev/null > "$dir/out" 2> "$dir/err"
	result $(($? != 2)) "no terminal to ask on"
}
printf 'other' > "$dir/text"
exits 0 "a password without newline" user add bert@example.test --password-stdin < "$dir/text"
exits 0 "user list" user list
out_has '^anna@example\.test +Änne <A> +enabled +0 +never ' "user list shows a row"
exits 0 "user list --json" user list --json
json 'length == 2 and .[0].address == "anna@example.test" and .[0].name == "Änne <A>" and (.[0].disabled | not) and (.[0].created | test("^20..-..-..T..:..:..Z$"))' "user list is JSON"
verify anna@example.test secret ok
verify anna@example.test wrong bad
verify bert@example.test other ok
printf 'newer\r\n' > "$dir/text"
exits 0 "user passwd" user passwd anna@example.test --password-stdin < "$dir/text"
verify anna@example.test newer ok
verify anna@example.test secret bad
printf 'x\n' > "$dir/text"
exits 3 "user passwd of nobody" user passwd nobody@example.test --password-stdin < "$dir/text"
exits 0 "user disable" user disable anna@example.test
verify anna@example.test newer disabled
exits 0 "user list shows" user list --json
json '.[0].disabled' "the disabled user"
exits 0 "user enable" user enable ANNA@example.test
verify anna@example.test newer ok
exits 3 "user disable of nobody" user disable nobody@example.test
ROOST_STORE_DIR=$data timeout 20 "$bin/roostctl" user list > "$dir/out" 2> "$dir/err"
result $? "ROOST_STORE_DIR names the store"
printf 'store { dir = "%s" }\n' "$data" > "$dir/roost.conf"
timeout 20 "$bin/roostctl" --config "$dir/roost.conf" user list > "$dir/out" 2> "$dir/err"
result $? "the configuration names the store"

# --- mail and folders
mail='From: x@example.test\nTo: anna@example.test\nSubject: Hello\n\nBody\n'
before=$("$fixture" "$data" head)
printf %b "$mail" > "$dir/text"
exits 0 "deliver" deliver anna@example.test < "$dir/text"
[ "$("$fixture" "$data" head)" -gt "$before" ]
result $? "a delivery moves the journal"
printf %b "From MAILER Fri Nov 20 2026\n$mail" > "$dir/text"
exits 0 "deliver from a mailbox file into a folder" \
	deliver anna@example.test --folder DRAFTS < "$dir/text"
printf %b "$mail" > "$dir/text"
exits 3 "deliver to nobody" deliver nobody@example.test < "$dir/text"
printf %b "$mail" > "$dir/text"
exits 3 "deliver to no folder" deliver anna@example.test --folder Nowhere < "$dir/text"
err_has 'there are: Inbox' "the folders that are there are named"
printf %b "$mail" > "$dir/text"
exits 2 "deliver to a folder of another class" deliver anna@example.test --folder calendar < "$dir/text"
exits 2 "deliver nothing" deliver anna@example.test < /dev/null
before=$("$fixture" "$data" head)
exits 0 "change by name in any case" change anna@example.test iNbOx
exits 0 "change by id" change anna@example.test 7
out_has 'Calendar' "the id was the calendar's"
[ "$("$fixture" "$data" head)" -eq $((before + 2)) ]
result $? "two changes are two journal rows"
exits 3 "change of no folder" change anna@example.test 4711
exits 3 "change of nobody" change nobody@example.test Inbox

# --- devices
evil=$(printf 'Evil\033[31m\nModel')
"$fixture" "$data" device anna@example.test ABC123 'Phone 5' &&
	"$fixture" "$data" device bert@example.test ABC123 'Phone 6' &&
	"$fixture" "$data" device bert@example.test EVIL "$evil"
result $? "devices are there"
exits 0 "device list" device list
out_has '^anna@example\.test +ABC123 +Phone +Phone 5 +16\.1 .*3 min ago +192\.0\.2\.7$' "device list shows a row"
grep -q "$(printf '\033')" "$dir/out"
result $(($? == 0)) "no escape sequence of a phone reaches the terminal"
[ "$(wc -l < "$dir/out")" -eq 4 ]
result $? "a row is a line"
exits 0 "device list -u" device list -u anna@example.test --json
json 'length == 1 and .[0].device == "ABC123" and .[0].version == "16.1" and (.[0].blocked | not)' "device list is JSON"
exits 0 "device list of all is JSON too" device list --json
json 'length == 3' "with all devices"
exits 3 "device list of nobody" device list -u nobody@example.test
exits 0 "device show" device show abc123 -u bert@example.test
out_has '^Model +Phone 6$' "device show shows the model"
out_has '^Last Ping +heartbeat 900 s: Inbox$' "device show names the folders of the Ping"
exits 0 "device show of two accounts" device show ABC123 --json
json 'length == 2 and .[0].ping_folders == ["Inbox"]' "device show is JSON"
exits 3 "device show of none" device show NONE
exits 2 "device block needs to know whose" device block ABC123
err_has 'anna@example.test, bert@example.test' "and says whose it could be"
before=$("$fixture" "$data" head)
exits 0 "device block" device block ABC123 -u bert@example.test
[ "$("$fixture" "$data" head)" -gt "$before" ]
result $? "a block is told to the server"
exits 0 "device list after it" device list --json
json '[.[] | select(.blocked) | .user] == ["bert@example.test"]' "only that device is blocked"
exits 0 "device unblock" device unblock ABC123 -u bert@example.test
exits 0 "device remove" device remove ABC123 -u bert@example.test
exits 3 "device remove twice" device remove ABC123 -u bert@example.test
exits 0 "device remove of the only one" device remove abc123

# --- store
exits 0 "check" check
out_has 'the store is sound' "check says so"
exits 0 "backup" backup "$dir/backup"
exits 4 "backup into a used directory" backup "$dir/backup"
exits 1 "backup below nothing" backup "$dir/no/where"
timeout 20 "$bin/roostctl" --data "$dir/backup" user list --json > "$dir/out" 2> "$dir/err"
result $? "the backup is a store"
json 'length == 2' "with all users"

# --- configuration
exits 0 "config example" config example
cp "$dir/out" "$dir/example.conf"
cmp -s "$dir/out" deploy/roost.conf.example || [ ! -e deploy/roost.conf.example ]
result $? "deploy/roost.conf.example is current"
exits 0 "the example is good" config check "$dir/example.conf"
exits 0 "config man" config man
out_has '^\*heartbeat\\_min\\_s\*$' "config man lists a setting"
printf 'push {\n  heartbeat_mn_s = 5\n}\n' > "$dir/bad.conf"
exits 1 "a bad file" config check "$dir/bad.conf"
err_has 'bad\.conf:2: .*did you mean push\.heartbeat_min_s' "is named with its line"
exits 1 "a file that is not there" config check "$dir/none.conf"
timeout 20 "$bin/roostctl" --config "$dir/bad.conf" user list > "$dir/out" 2> "$dir/err"
result $(($? != 1)) "a bad --config is refused"
exits 0 "config show" config show
out_has "^store\.dir = $data\$" "config show knows --data"
ROOST_PUSH_HEARTBEAT_MIN=1 exits 1 "a slip in the environment" config show
unset ROOST_PUSH_HEARTBEAT_MIN

# --- the server's verbs, off
for verb in "ping list" top stats health reload stop "why 1"; do
	# shellcheck disable=SC2086
	exits 5 "$verb without a server" $verb
done

# --- and on, by a stand-in
mkfifo "$dir/in"
"$fixture" "$data" serve < "$dir/in" > "$dir/ready" 2> "$dir/serve.err" &
server=$!
exec 9> "$dir/in"
for _ in 1 2 3 4 5 6 7 8 9 10; do
	grep -q ready "$dir/ready" && break
	sleep 0.2
done
[ "$(stat -c %a "$data/control")" = 600 ]
result $? "only its owner may use the control socket"
exits 0 "ping list" ping list
out_has '^anna@example\.test .* Ping +(59|60|61) s +.*192\.0\.2\.1 +Inbox, Calendar$' "ping list shows a row"
out_has '^2 parked' "ping list counts"
exits 0 "ping list --json" ping list --json
json 'length == 2 and .[0].command == "Ping" and .[1].command == "Sync" and .[0].heartbeat_s == 900 and (.[0].since | test("Z$"))' "ping list is JSON"
exits 0 "ping list -u" ping list -u bert@example.test --json
json 'length == 1 and .[0].user == "bert@example.test"' "of one user"
exits 0 "ping list --limit" ping list --limit 1 --json
json 'length == 1' "of one"
exits 0 "ping list --device" ping list --device evil --json
json 'type == "array"' "of one device"
exits 3 "ping list of nobody" ping list -u nobody@example.test
exits 0 "top --once" top --once
out_has '^roost [0-9.]+  [0-9:]{8}  up [0-9]+ s  ready  memory [0-9.]+ MiB$' "top says how the server is"
out_has '^parked 2 ' "top counts"
exits 0 "top without a terminal prints once" top
exits 0 "top --json" top --once --json
json '(.parked | length) == 2 and .stats.metrics.connections == 0' "top is JSON"
exits 0 "why" why FEED
out_has 'Request 000000000000feed was refused at .* with HTTP 403: account disabled' "why tells what"
out_has 'roostctl user enable a@example\.test' "why tells what to do"
grep -q "$(printf '\033')" "$dir/out"
result $(($? == 0)) "no escape sequence of a phone in why"
exits 0 "why --json" why feed --json
json '.http_status == 403 and .request_id == "000000000000feed"' "why is JSON"
exits 3 "why of an id nobody knows" why 12345
exits 2 "why of no id" why xyz
exits 0 "stats" stats
out_has '^Roost ' "stats begins with the version"
exits 0 "stats --json" stats --json
json '.ready and .store.map_bytes > 0 and .latency.wake_latency_seconds.count == 0' "stats is JSON"
exits 0 "health" health
exits 1 "reload that fails" reload
err_has 'roost.conf:3' "reload says why"
exits 0 "verbs on the store work beside the server" user list
timeout 20 "$bin/roostctl" --socket "$data/control" health > "$dir/out" 2> "$dir/err"
result $? "--socket names the server"
exits 0 "stop" stop
wait "$server"
result $? "the server stopped"
server=
exits 5 "and is gone" health

# --- and away with it
printf '' > "$dir/text"
exits 0 "user del" user del bert@example.test --yes < "$dir/text"
exits 3 "user del twice" user del bert@example.test --yes
exits 0 "check after all" check

echo "1..$n"
[ "$bad" -eq 0 ]
