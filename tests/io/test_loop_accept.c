/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Newcomers, and those for whom there is no place (io/loop_accept.c). */
#include "tests/io/loop_fixture.h"

#include "core/base/metrics.h"

#include <fcntl.h>

/* To the newcomer: a full server says so at once. And one that has room again accepts. */
static void a_full_table_refuses(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 4, .cpu = -1});
	int c[24];
	char byte;
	int64_t refused = metrics_sum(M_CONNS_REFUSED_FULL);

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 4));
	for (unsigned i = 4; i < 24; i++)
		c[i] = client_to(&f->addr);
	for (unsigned i = 4; i < 24; i++) {
		while (poll(&(struct pollfd){.fd = c[i], .events = POLLIN}, 1, 0) == 0)
			settle(f);
		assert_int_equal(client_read(c[i], &byte, 1), -ECONNRESET);
		close(c[i]);
	}
	assert_int_equal(metrics_sum(M_CONNS_REFUSED_FULL) - refused, 20);
	assert_int_equal(f->accepted, 4);
	for (unsigned i = 0; i < 3; i++)
		do_close(f, f->order[i], false);
	assert_true(reached(f, &f->released, 3));
	settle(f);
	for (unsigned i = 4; i < 7; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 7));
	for (unsigned i = 0; i < 7; i++)
		close(c[i]);
	fixture_free(f);
}

/* Two listeners share the last slots: none starves while the other holds spare accepts.
 * One slot may stay promised to the other. */
static void listeners_share_what_is_left(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 7, .cpu = -1});
	struct sockaddr_in other;
	int fd = listen_any(&other, 16), c[6];

	(void)state;
	loop_listen(f->loop, fd);
	for (unsigned i = 0; i < 6; i++) {
		c[i] = client_to(&other);
		assert_true(reached(f, &f->accepted, i + 1));
		assert_int_equal(f->conns[f->order[i]].listener, 1);
	}
	for (unsigned i = 0; i < 6; i++)
		close(c[i]);
	close(fd);
	fixture_free(f);
}

static void draining_accepts_no_more(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);

	(void)state;
	f->echo = true;
	f->reads = do_recv;
	assert_true(reached(f, &f->accepted, 1));
	loop_listen_stop(f->loop);
	close(f->listen_fd);
	settle(f);
	int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(late, (struct sockaddr *)&f->addr, sizeof(f->addr)), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(late);
	client_send(c, "still here");
	assert_true(reached(f, &f->sent, 1));
	client_expect(c, "still here");
	/* A new listener is accepted from. */
	f->listen_fd = listen_any(&f->addr, 16);
	loop_listen(f->loop, f->listen_fd);
	late = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 2));
	close(late);
	close(c);
	fixture_free(f);
}

/* A descriptor that cannot be accepted from is given up; the other listener goes on, also when
 * somebody made it non-blocking. */
static void a_bad_listener_does_no_harm(void **state)
{
	struct fixture *f = fixture_new(&plain);
	int p[2], c;

	(void)state;
	assert_int_equal(pipe(p), 0);
	loop_listen(f->loop, p[0]);
	fcntl(f->listen_fd, F_SETFL, O_NONBLOCK);
	loop_listen(f->loop, f->listen_fd);
	settle(f);
	c = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 1));
	assert_int_equal(f->conns[f->order[0]].listener, 1);
	fcntl(f->listen_fd, F_SETFL, O_NONBLOCK);
	int d[70];
	for (unsigned i = 0; i < 70; i++)
		d[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 71));
	for (unsigned i = 0; i < 70; i++)
		close(d[i]);
	close(p[0]);
	close(p[1]);
	close(c);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_table_refuses),
		cmocka_unit_test(listeners_share_what_is_left),
		cmocka_unit_test(draining_accepts_no_more),
		cmocka_unit_test(a_bad_listener_does_no_harm),
	};

	return run_on_both_kernels("loop_accept", tests, ARRAY_LEN(tests));
}
