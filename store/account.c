/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/account.h"
#include "store/journal.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"
#include "store/store_priv.h"

enum { LOCAL_PART_MAX = 64, LABEL_MAX = 63 }; /* RFC 5321 4.5.3.1.1, RFC 1035 2.3.4 */

static bool alnum(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* RFC 5322 dot-atom: no quoting, so an address is safe in paths, logs and headers as it is. */
static bool local_part_ok(struct bytes b)
{
	if (b.n == 0 || b.n > LOCAL_PART_MAX || b.p[0] == '.' || b.p[b.n - 1] == '.')
		return false;
	for (size_t i = 0; i < b.n; i++) {
		if (b.p[i] == '.' && b.p[i - 1] == '.')
			return false;
		if (!alnum(b.p[i]) && (b.p[i] == 0 || !strchr(".!#$%&'*+-/=?^_`{|}~", b.p[i])))
			return false;
	}
	return true;
}

static bool domain_ok(struct bytes b)
{
	size_t start = 0;

	if (b.n == 0)
		return false;
	for (size_t i = 0; i <= b.n; i++) {
		if (i < b.n && b.p[i] != '.') {
			if (!alnum(b.p[i]) && b.p[i] != '-')
				return false;
			continue;
		}
		if (i == start || i - start > LABEL_MAX || b.p[start] == '-' || b.p[i - 1] == '-')
			return false;
		start = i + 1;
	}
	return true;
}

bool account_address_ok(struct bytes a)
{
	const uint8_t *at = a.n ? memchr(a.p, '@', a.n) : NULL;
	size_t local;

	if (!at || a.n > ACCOUNT_ADDRESS_MAX)
		return false;
	local = (size_t)(at - a.p);
	return local_part_ok(bytes_of(a.p, local)) && domain_ok(bytes_of(at + 1, a.n - local - 1));
}

/* False: not an address. */
static bool address_lower(struct bytes a, char out[ACCOUNT_ADDRESS_MAX + 1])
{
	if (!account_address_ok(a))
		return false;
	for (size_t i = 0; i < a.n; i++)
		out[i] = (char)(a.p[i] >= 'A' && a.p[i] <= 'Z' ? a.p[i] | 0x20 : a.p[i]);
	out[a.n] = 0;
	return true;
}

static int mailbox_of(struct db_txn *txn, struct bytes address, uint32_t *mailbox_out)
{
	char lower[ACCOUNT_ADDRESS_MAX + 1];
	struct record_ref ref;
	struct key key;
	struct bytes v;
	int err;

	if (!address_lower(address, lower))
		return DB_NOT_FOUND;
	err = rows_get(txn, key_address(&key, bytes_str(lower)), &v);
	if (err == DB_OK)
		err = record_decode_ref(v, &ref);
	if (err == DB_OK)
		*mailbox_out = ref.id;
	return err;
}

int account_gate(struct db_txn *txn, uint32_t mailbox, struct account_gate *out)
{
	struct account_gate gate;
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_account_gate(&key, mailbox), &v);

	if (err == DB_OK)
		err = record_decode_account_gate(v, &gate);
	if (err == DB_OK)
		*out = gate;
	return err;
}

int account_by_mailbox(struct db_txn *txn, uint32_t mailbox, struct account *out)
{
	struct account_gate gate;
	struct account a;
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_account(&key, mailbox), &v);

	if (err == DB_OK)
		err = record_decode_account(v, &a);
	if (err == DB_OK && (err = account_gate(txn, mailbox, &gate)) == DB_NOT_FOUND)
		err = DB_CORRUPT;
	if (err)
		return err;
	a.mailbox = mailbox;
	a.disabled = gate.disabled;
	a.password_generation = gate.password_generation;
	*out = a;
	return DB_OK;
}

int account_address(struct db_txn *txn, uint32_t mailbox, char out[ACCOUNT_ADDRESS_MAX + 1])
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_account(&key, mailbox), &v);

	return err ? err : record_account_address(v, out);
}

int account_find(struct db_txn *txn, struct bytes address, struct account *out)
{
	uint32_t mailbox;
	int err = mailbox_of(txn, address, &mailbox);

	if (err)
		return err;
	err = account_by_mailbox(txn, mailbox, out);
	return err == DB_NOT_FOUND ? DB_CORRUPT : err;
}

static int account_put(struct db_txn *txn, const struct account *a)
{
	struct account_gate gate = {
		.disabled = a->disabled, .password_generation = a->password_generation};
	struct journal_row row = {.mailbox = a->mailbox, .kind = JOURNAL_ACCOUNT};
	struct record_buf buf;
	struct key key;

	rows_put(txn, key_account(&key, a->mailbox), record_encode_account(&buf, a));
	rows_put(txn, key_account_gate(&key, a->mailbox), record_encode_account_gate(&buf, &gate));
	return journal_append(txn, &row);
}

static bool text_fits(const char *s, char *dst, size_t cap)
{
	return bytes_to_strz(bytes_str(s), dst, cap);
}

int account_create(struct db_txn *txn, struct bytes address, const char *password_hash,
	const char *display_name, uint64_t now_ms, struct account *out)
{
	struct account a = {.password_generation = 1, .created_ms = now_ms};
	struct record_ids ids;
	struct record_buf buf;
	struct bytes v;
	struct key key;
	uint32_t taken;
	int err;

	if (txn->err)
		return txn->err;
	if (!address_lower(address, a.address) ||
		!text_fits(password_hash, a.password_hash, sizeof(a.password_hash)) ||
		!text_fits(display_name, a.display_name, sizeof(a.display_name)))
		return DB_INVALID;
	err = mailbox_of(txn, address, &taken);
	if (err != DB_NOT_FOUND)
		return err ? err : DB_EXISTS;
	err = rows_get(txn, key_meta(&key, KEY_META_IDS), &v);
	if (err == DB_OK)
		err = record_decode_ids(v, &ids);
	if (err)
		return txn_fail(txn, DB_CORRUPT);
	if (ids.next_mailbox == UINT32_MAX)
		return DB_INVALID;
	a.mailbox = ids.next_mailbox++;
	rows_put(txn, key_meta(&key, KEY_META_IDS), record_encode_ids(&buf, &ids));
	rows_put(txn, key_address(&key, bytes_str(a.address)),
		record_encode_ref(&buf, &(struct record_ref){.id = a.mailbox}));
	err = account_put(txn, &a);
	if (err == DB_OK)
		err = mailbox_create(txn, a.mailbox);
	if (err == DB_OK && out)
		*out = a;
	return err;
}

int account_set_password(struct db_txn *txn, struct bytes address, const char *password_hash)
{
	struct account a;
	int err;

	if (txn->err)
		return txn->err;
	err = account_find(txn, address, &a);
	if (err)
		return err;
	if (!text_fits(password_hash, a.password_hash, sizeof(a.password_hash)))
		return DB_INVALID;
	a.password_generation++;
	return account_put(txn, &a);
}

int account_set_disabled(struct db_txn *txn, struct bytes address, bool disabled)
{
	struct account a;
	int err;

	if (txn->err)
		return txn->err;
	err = account_find(txn, address, &a);
	if (err || a.disabled == disabled)
		return err;
	a.disabled = disabled;
	return account_put(txn, &a);
}

int account_delete(struct db_txn *txn, struct bytes address)
{
	struct journal_row row = {.kind = JOURNAL_ACCOUNT};
	struct account a;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	err = account_find(txn, address, &a);
	if (err)
		return err;
	row.mailbox = a.mailbox;
	rows_del_known(txn, key_address(&key, bytes_str(a.address)));
	rows_del_prefix(txn, key_prefix_mailbox(&key, a.mailbox), NULL);
	return journal_append(txn, &row);
}

int account_next(struct db_txn *txn, char cursor[ACCOUNT_ADDRESS_MAX + 1], struct account *out)
{
	size_t prefix_n = key_prefix_kind(&(struct key){}, KEY_ADDRESS).n;
	struct record_ref ref;
	struct key key, after;
	struct bytes k, v;
	int err = rows_seek(
		txn, key_after(&after, key_address(&key, bytes_str(cursor))), prefix_n, &k, &v);

	if (err == DB_OK)
		err = record_decode_ref(v, &ref);
	if (err == DB_OK && (err = account_by_mailbox(txn, ref.id, out)) == DB_NOT_FOUND)
		err = DB_CORRUPT;
	if (err == DB_OK)
		memcpy(cursor, out->address, ACCOUNT_ADDRESS_MAX + 1);
	return err;
}
