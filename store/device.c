/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/device.h"
#include "store/journal.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"
#include "store/store_priv.h"

/* A device is two records: the gate, found by the client's DeviceId, and all the rest, by number.
 * Each field is in one of them only. */

static bool device_id_ok(struct bytes id)
{
	return id.n > 0 && id.n < sizeof(((struct device *)0)->device_id) && !memchr(id.p, 0, id.n);
}

int device_gate(
	struct db_txn *txn, uint32_t mailbox, struct bytes device_id, struct device_gate *out)
{
	struct device_gate gate;
	struct key key;
	struct bytes v;
	int err;

	if (!device_id_ok(device_id))
		return DB_NOT_FOUND;
	err = rows_get(txn, key_device_gate(&key, mailbox, device_id), &v);
	if (err == DB_OK)
		err = record_decode_device_gate(v, &gate);
	if (err == DB_OK)
		*out = gate;
	return err;
}

static int rest_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, struct device *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_device(&key, mailbox, device), &v);

	if (err == DB_OK)
		err = record_decode_device(v, out);
	out->id = device;
	return err;
}

int device_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, struct device *out)
{
	struct device_gate gate;
	struct device d;
	int err = rest_get(txn, mailbox, device, &d);

	if (err)
		return err;
	err = device_gate(txn, mailbox, bytes_str(d.device_id), &gate);
	if (err == DB_NOT_FOUND || (err == DB_OK && gate.id != device))
		err = DB_CORRUPT;
	if (err)
		return err;
	d.blocked = gate.blocked;
	d.policy_key = gate.policy_key;
	d.policy_generation = gate.policy_generation;
	d.hierarchy_seq = gate.hierarchy_seq;
	d.last_seen_ms = gate.last_seen_ms;
	*out = d;
	return DB_OK;
}

int device_name(struct db_txn *txn, uint32_t mailbox, uint32_t device, char out[DEVICE_ID_MAX + 1])
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_device(&key, mailbox, device), &v);

	return err ? err : record_device_id(v, out);
}

int device_find(struct db_txn *txn, uint32_t mailbox, struct bytes device_id, struct device *out)
{
	struct device_gate gate;
	int err = device_gate(txn, mailbox, device_id, &gate);

	if (err)
		return err;
	err = device_get(txn, mailbox, gate.id, out);
	return err == DB_NOT_FOUND ? DB_CORRUPT : err;
}

static int put_if_other(struct db_txn *txn, struct bytes key, struct bytes value)
{
	struct bytes stored;

	/* Most of the time only "last seen" moves, and the long record can stay. */
	if (rows_get(txn, key, &stored) == DB_OK && bytes_eq(stored, value))
		return txn->err;
	return rows_put(txn, key, value);
}

int device_put(struct db_txn *txn, uint32_t mailbox, struct device *d)
{
	struct record_counters counters;
	struct device_gate gate = {.id = d->id,
		.blocked = d->blocked,
		.policy_key = d->policy_key,
		.policy_generation = d->policy_generation,
		.hierarchy_seq = d->hierarchy_seq,
		.last_seen_ms = d->last_seen_ms};
	struct bytes device_id =
		bytes_of(d->device_id, strnlen(d->device_id, sizeof(d->device_id)));
	struct record_buf buf, gate_buf;
	struct bytes rest = record_encode_device(&buf, d);
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	if (rest.n == 0 || !device_id_ok(device_id))
		return DB_INVALID;
	err = counters_get(txn, mailbox, &counters);
	if (err)
		return err;
	if (d->id == 0) {
		struct device_gate taken;
		err = device_gate(txn, mailbox, device_id, &taken);
		if (err != DB_NOT_FOUND)
			return err ? err : DB_EXISTS;
		if (counters.next_device == UINT32_MAX)
			return DB_INVALID;
		gate.id = counters.next_device++;
		counters_put(txn, mailbox, &counters);
	} else {
		struct device was;
		err = rest_get(txn, mailbox, d->id, &was);
		if (err)
			return err;
		if (!bytes_eq_str(device_id, was.device_id))
			return DB_INVALID;
	}
	put_if_other(txn, key_device(&key, mailbox, gate.id), rest);
	err = put_if_other(txn, key_device_gate(&key, mailbox, device_id),
		record_encode_device_gate(&gate_buf, &gate));
	if (err == DB_OK)
		d->id = gate.id;
	return err;
}

int device_touch(struct db_txn *txn, uint32_t mailbox, uint32_t device)
{
	struct journal_row row = {.mailbox = mailbox, .device = device, .kind = JOURNAL_DEVICE};
	struct key key;
	struct bytes v;
	int err;

	if (txn->err)
		return txn->err;
	err = rows_get(txn, key_device(&key, mailbox, device), &v);
	return err ? err : journal_append(txn, &row);
}

int device_delete(struct db_txn *txn, uint32_t mailbox, uint32_t device)
{
	struct device d;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	err = rest_get(txn, mailbox, device, &d);
	if (err == DB_OK)
		err = device_touch(txn, mailbox, device);
	if (err)
		return err;
	rows_del_known(txn, key_device(&key, mailbox, device));
	rows_del_known(txn, key_device_gate(&key, mailbox, bytes_str(d.device_id)));
	rows_del_prefix(txn, key_prefix_id(&key, mailbox, KEY_COLLECTION, device), NULL);
	return rows_del_prefix(txn, key_prefix_id(&key, mailbox, KEY_BLOB, device), NULL);
}

int device_next(struct db_txn *txn, uint32_t mailbox, uint32_t *id, struct device *out)
{
	struct key_parts parts;
	struct bytes k, v;
	struct key key;
	int err;

	if (*id == UINT32_MAX)
		return DB_NOT_FOUND;
	err = rows_seek(txn, key_device(&key, mailbox, *id + 1),
		key_prefix(&(struct key){}, mailbox, KEY_DEVICE).n, &k, &v);
	if (err)
		return err;
	if (!key_parse(k, &parts))
		return DB_CORRUPT;
	err = device_get(txn, mailbox, parts.device, out);
	if (err == DB_OK)
		*id = parts.device;
	return err;
}

int collection_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	struct collection *out)
{
	struct collection c;
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_collection(&key, mailbox, device, folder), &v);

	if (err == DB_OK)
		err = record_decode_collection(v, &c);
	if (err == DB_OK)
		*out = c;
	return err;
}

int collection_put(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	const struct collection *c)
{
	struct record_buf buf;
	struct bytes value = record_encode_collection(&buf, c), v;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	if (value.n == 0 || folder == 0)
		return DB_INVALID;
	/* A late answer must not leave rows behind that nobody would ever remove. */
	err = rows_get(txn, key_device(&key, mailbox, device), &v);
	if (err)
		return err;
	return rows_put(txn, key_collection(&key, mailbox, device, folder), value);
}

int collection_delete(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder)
{
	struct key key;

	return rows_del(txn, key_collection(&key, mailbox, device, folder));
}

int collection_next(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t *folder,
	struct collection *out)
{
	struct key_parts parts;
	struct collection c;
	struct bytes k, v;
	struct key key;
	int err;

	if (*folder == UINT32_MAX)
		return DB_NOT_FOUND;
	err = rows_seek(txn, key_collection(&key, mailbox, device, *folder + 1),
		key_prefix_id(&(struct key){}, mailbox, KEY_COLLECTION, device).n, &k, &v);
	if (err)
		return err;
	if (!key_parse(k, &parts) || record_decode_collection(v, &c))
		return DB_CORRUPT;
	*folder = parts.folder;
	*out = c;
	return DB_OK;
}

int device_blob_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, enum device_blob kind,
	struct bytes *out)
{
	struct key key;

	return rows_get(txn, key_blob(&key, mailbox, device, (uint8_t)kind), out);
}

int device_blob_put(struct db_txn *txn, uint32_t mailbox, uint32_t device, enum device_blob kind,
	struct bytes value)
{
	struct bytes v;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	if (value.n == 0) {
		err = rows_del(txn, key_blob(&key, mailbox, device, (uint8_t)kind));
		return err == DB_NOT_FOUND ? DB_OK : err;
	}
	err = rows_get(txn, key_device(&key, mailbox, device), &v);
	if (err)
		return err;
	return rows_put(txn, key_blob(&key, mailbox, device, (uint8_t)kind), value);
}
