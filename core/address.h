/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/address.h - socket addresses as people write them: "192.0.2.1:443", "[2001:db8::1]:443",
 * ":443" or "*:443" (every address of the machine, v4 and v6), "localhost:8080",
 * "unix:/run/roost/lmtp".
 * Names are not looked up: a listener that starts or not by what a name server says is a trap.
 * Thread: any, no state.    Memory: none.    Cost: no system call but if_nametoindex for a zone.
 * Errors: address_parse returns false with one line of what is wrong and what is allowed. */
#ifndef ROOST_CORE_ADDRESS_H
#define ROOST_CORE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { ADDRESS_TCP = 1, ADDRESS_UNIX = 2 }; /* kinds, to be or-ed */
/* "[v6%zone]:port" and "unix:" with the longest path fit, with the NUL. */
enum { ADDRESS_TEXT_BYTES = 128 };

/* Port 0 is accepted: the kernel picks one (tests). */
bool address_parse(const char *text, unsigned kinds, struct sockaddr_storage *out,
	socklen_t *length_out, char *why, size_t why_bytes);
/* The same form back; IPv4 in IPv6 is shown as IPv4. Unknown families give "?". */
void address_format(const struct sockaddr *address, socklen_t length, char out[ADDRESS_TEXT_BYTES]);
/* Without the port: what logs call rip. */
void address_format_host(
	const struct sockaddr *address, socklen_t length, char out[ADDRESS_TEXT_BYTES]);
/* 16 bytes, IPv4 as ::ffff:a.b.c.d. */
void address_format_ip(const uint8_t ip[16], char out[ADDRESS_TEXT_BYTES]);

#endif
