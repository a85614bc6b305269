#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# gen-codepages.sh DIR - writes DIR/wbxml_tags.h (enum of all tags) and DIR/wbxml_tags.inc (the
# table that wbxml.c looks names up in) from codepages.tsv, which lies beside this script.
#
# The .tsv is the only place where a number is written down; a row that is out of range, out of
# order or there twice ends the build, since the phone would silently read another element.
# Output depends on the .tsv alone, and a file that would not change keeps its time stamp.
set -eu
LC_ALL=C
export LC_ALL

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$1
tsv=$(dirname "$0")/codepages.tsv
mkdir -p "$dir"
h=$dir/wbxml_tags.h.$$
inc=$dir/wbxml_tags.inc.$$
trap 'rm -f "$h" "$inc"' EXIT

awk -F '\t' -v h="$h" -v inc="$inc" '
function die(why) {
	printf "codepages.tsv:%d: %s\n", NR, why > "/dev/stderr"
	failed = 1
	exit 1
}
function hex(s,    i, d, v) {
	if (s !~ /^0x[0-9A-F][0-9A-F]$/)
		die("token is not 0xNN")
	for (i = 3; i <= 4; i++) {
		d = index("0123456789ABCDEF", substr(s, i, 1)) - 1
		v = v * 16 + d
	}
	return v
}
BEGIN {
	page = -1
	print "/* SPDX-License-Identifier: GPL-3.0-or-later */" > h
	print "/* Made from core/eas/codepages.tsv by gen-codepages.sh; edit those. */" > h
	print "#ifndef ROOST_WBXML_TAGS_H\n#define ROOST_WBXML_TAGS_H\n" > h
	print "/* page << 8 | token identity; the name is PAGE_Tag, spelled as in MS-ASWBXML. */" > h
	print "enum wbxml_tag {" > h
	print "/* SPDX-License-Identifier: GPL-3.0-or-later */" > inc
	print "/* Made from core/eas/codepages.tsv by gen-codepages.sh; edit those. */" > inc
	print "static const struct wbxml_tag_info tag_infos[WBXML_PAGES][WBXML_TOKENS] = {" > inc
}
NR == 1 {
	if ($1 != "page" || $3 != "token" || $5 != "min_version")
		die("unexpected header line")
	next
}
{
	if ($1 !~ /^[0-9]+$/ || $1 + 0 < page || $1 + 0 > page + 1)
		die("pages must be numbered in order, without gaps")
	if ($1 + 0 != page) {
		page = $1 + 0
		names[page] = $2
		last = 4
	} else if ($2 != names[page])
		die("one page, two names")
	token = hex($3)
	if (token <= last || token > 63)
		die("token twice, out of order or outside 0x05..0x3F")
	last = token
	# A number nobody uses (Find 0x1A): the decoder treats it as unknown.
	if ($4 == "(unassigned)")
		next
	if ($2 !~ /^[A-Za-z][A-Za-z0-9]*$/ || $4 !~ /^[A-Za-z][A-Za-z0-9]*$/)
		die("not a name: " $2 " " $4)
	if ($5 !~ /^[0-9]+\.[0-9]$/)
		die("min_version is not N.N")
	version = $5
	sub(/\./, "", version)
	printf "\t%s_%s = 0x%02X%02X,\n", toupper($2), $4, page, token > h
	printf "\t[%d][0x%02X - 5] = {\"%s\", %d},\n", page, token, $4, version > inc
}
END {
	if (failed)
		exit 1
	print "};\n" > h
	printf "enum {\n\tWBXML_PAGES = %d,\n\tWBXML_TOKENS = 0x3F - 4\n};\n\n#endif\n", page + 1 > h
	print "};\n" > inc
	print "static const char *const page_names[WBXML_PAGES] = {" > inc
	for (i = 0; i <= page; i++)
		printf "\t\"%s\",\n", names[i] > inc
	print "};" > inc
}
' "$tsv"

for f in "$h" "$inc"; do
	to=${f%.*}
	cmp -s "$f" "$to" || mv "$f" "$to"
done
