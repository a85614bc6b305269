/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/list.h - circular doubly linked list, links embedded in the members.
 * A link that is in no list points at itself; list_del leaves it so.
 * Memory: none of its own.    Cost: all O(1). */
#ifndef ROOST_BASE_LIST_H
#define ROOST_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_link {
	struct list_link *next, *prev;
};

static inline void list_init(struct list_link *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list_link *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list_link *head, struct list_link *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void list_add_head(struct list_link *head, struct list_link *l)
{
	list_add_tail(head->next, l);
}

static inline void list_del(struct list_link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

#define list_entry(l, type, member) ((type *)((char *)(l)-offsetof(type, member)))
#define list_each(l, head)          for (l = (head)->next; l != (head); l = l->next)
/* Safe against removal of `l` itself. */
#define list_each_safe(l, tmp, head)                                                               \
	for (l = (head)->next, tmp = l->next; l != (head); l = tmp, tmp = l->next)

#endif
