# SPDX-License-Identifier: GPL-3.0-or-later
# Roost: everything starts here. `make help` lists the targets.
#
# Files are found, not listed: every .c below core/ io/ store/ goes into libroost.a, except the
# programs' mains; every tests/*/test_X.c is a cmocka program, other tests/*/X.c are helpers of the
# scripts in tests/e2e, tests/fuzz/fuzz_X.c fuzz targets, bench/bench_X.c measurements.
#
# make V=1 shows the commands; make SAN=address,undefined and make CC=clang build beside the plain build, in their own folder.

CC      := gcc
OPT     := -O2
SAN     :=
COVER   :=
comma   := ,
VARIANT := $(CC)$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(COVER),-cover)
B       := build/$(VARIANT)
BIN     := $(if $(filter gcc,$(VARIANT)),bin,$(B)/bin)
GEN     := build/gen
WOLF    := build/wolfssl
Q       := $(if $(V),,@)
VERSION := 0.1.0
COMMIT  := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

PACKAGES := gcc make pkg-config liburing-dev liblmdb-dev libgmime-3.0-dev libgumbo-dev \
	libconfuse-dev libsodium-dev libjansson-dev zlib1g-dev libwolfssl-dev \
	dpkg-dev autoconf automake libtool ca-certificates git
PACKAGES_CHECK := libcmocka-dev curl openssl gnutls-bin swaks libwbxml2-utils postfix jq \
	python3 netcat-openbsd gzip procps scdoc \
	testssl.sh slowhttptest dnsutils bsdextrautils
PACKAGES_LINT  := clang clang-format clang-tidy cppcheck libclang-rt-14-dev
PACKAGES_EMULATE := qemu-system-x86 debootstrap cpio kmod e2fsprogs
PKGS     := gmime-3.0 gumbo libconfuse libsodium jansson zlib liburing

CFLAGS_ALL = -std=gnu11 -D_GNU_SOURCE $(OPT) -g -fno-omit-frame-pointer -Wall -Wextra -Werror \
	-fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE -MMD -MP \
	-I. -I$(GEN) $(if $(wildcard $(WOLF)/lib/libwolfssl.a),-I$(WOLF)/include) \
	-DROOST_VERSION='"$(VERSION)"' \
	$(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=undefined -U_FORTIFY_SOURCE) \
	$(if $(COVER),--coverage) $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN)) $(if $(COVER),--coverage) \
	$(WOLF_WRAP) $(LDFLAGS)
# io/tls_hash.c takes the place of two functions in our own wolfSSL.
WOLF_WRAP = $(if $(and $(wildcard $(WOLF)/lib/libwolfssl.a),$(filter x86_64,$(shell uname -m))),\
	$(foreach f,RORX RORX_Len,-Wl$(comma)--wrap=Transform_Sha256_AVX2_$f) \
	-Wl$(comma)-u$(comma)__wrap_Transform_Sha256_AVX2_RORX)
WOLF_LIB = $(if $(wildcard $(WOLF)/lib/libwolfssl.a),$(WOLF)/lib/libwolfssl.a,-lwolfssl)
LIBS      = $(WOLF_LIB) $(PKG_LIBS) -llmdb -lpthread -lm

# The packages' flags are asked for once, and only when something is compiled.
-include build/pkg.mk
ifeq ($(PKG_LIBS),)
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null)
endif

MAINS     := core/main.c core/admin/roostctl.c bench/phone/roost-phone.c bench/roost-bench.c
BENCH_LIB := $(filter-out $(MAINS) $(wildcard bench/bench_*.c),$(wildcard bench/*.c bench/*/*.c))
LIB_SRC   := $(filter-out $(MAINS),$(wildcard core/*.c core/*/*.c io/*.c store/*.c))
LIB_OBJ   := $(LIB_SRC:%.c=$(B)/%.o)
SIM_SRC   := $(wildcard tests/sim/*.c)
TEST_SRC  := $(wildcard tests/core/test_*.c tests/io/test_*.c tests/store/test_*.c tests/bench/test_*.c)
HELP_SRC  := $(filter-out tests/core/test_% tests/io/test_% tests/store/test_%,\
	$(wildcard tests/core/*.c tests/io/*.c tests/store/*.c tests/e2e/*.c))
FUZZ_SRC  := $(wildcard tests/fuzz/fuzz_*.c)
BENCH_SRC := $(wildcard bench/bench_*.c)
TESTS     := $(TEST_SRC:%.c=$(B)/%)
HELPERS   := $(HELP_SRC:%.c=$(B)/%)
BENCHES   := $(BENCH_SRC:%.c=$(B)/%)
FUZZ_REPLAY := $(FUZZ_SRC:%.c=$(B)/%)
PROGRAMS  := $(BIN)/roostd $(BIN)/roostctl $(BIN)/roost-phone $(BIN)/roost-bench
MAN       := $(patsubst deploy/man/%.scd,build/man/%,$(wildcard deploy/man/*.scd))

.DEFAULT_GOAL := all
.PHONY: all help deps deps-check deps-man deps-lint demo run check check-built check-old-kernel \
	build-tests tests-built asan tsan clang sim fuzz fuzz-all bench format lint layers cover install clean man

# Goals build in makes of their own, into the same directory: two of them go one after the other.
ifneq ($(word 2,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

all: deps $(WOLF)/.done ## Build the programs into bin/ (installs what is missing).
	@$(MAKE) --no-print-directory programs

programs: $(PROGRAMS)

help: ## This list.
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | sort | \
		awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'

# --- what must be installed -----------------------------------------------------------------

define need
	@missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}\n' $$p 2>/dev/null | \
		grep -q 'ok installed' || printf '%s ' $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing: $$missing"; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo env DEBIAN_FRONTEND=noninteractive sh deploy/apt-install.sh $$missing; \
	fi
endef

deps: ## Install what building needs (Debian packages).
	$(call need,$(PACKAGES))
deps-check: deps ## Install what the tests need.
	$(call need,$(PACKAGES_CHECK))
deps-man:
	$(call need,scdoc)
deps-lint: ## Install what lint and fuzzing need.
	$(call need,$(PACKAGES_LINT))

# wolfSSL from Debian's source with our flags; where that cannot be had, Debian's library.
$(WOLF)/.done: io/build-wolfssl.sh
	@sh io/build-wolfssl.sh $(WOLF) && mkdir -p $(WOLF) && touch $@

$(GEN)/.done: core/eas/gen-codepages.sh core/eas/codepages.tsv
	@mkdir -p $(GEN) && sh core/eas/gen-codepages.sh $(GEN) && touch $@

# --- compiling ------------------------------------------------------------------------------

$(B)/%.o: %.c $(GEN)/.done
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC   $<")
	$(Q)$(CC) $(CFLAGS_ALL) -c -o $@ $<

# The commit is compiled into one small file, so that a commit rebuilds nothing else.
$(B)/core/version.o: CFLAGS += -DROOST_COMMIT='"$(COMMIT)"'
$(B)/core/version.o: build/commit
build/commit: always
	@mkdir -p build; [ "$$(cat $@ 2>/dev/null)" = "$(COMMIT)" ] || echo "$(COMMIT)" > $@
.PHONY: always

$(B)/libroost.a: $(LIB_OBJ)
	@rm -f $@ && ar rcs $@ $^
$(B)/libbench.a: $(BENCH_LIB:%.c=$(B)/%.o)
	@rm -f $@ && ar rcs $@ $^

link = $(CC) $(LDFLAGS_ALL) -o $@ $(1) $(LIBS)

$(BIN)/roostd: $(B)/core/main.o $(B)/libroost.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LINK $@")
	$(Q)$(call link,$^)
$(BIN)/roostctl: $(B)/core/admin/roostctl.o $(B)/libroost.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LINK $@")
	$(Q)$(call link,$^)
$(BIN)/roost-phone: $(B)/bench/phone/roost-phone.o $(B)/libbench.a $(B)/libroost.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LINK $@")
	$(Q)$(call link,$^)
$(BIN)/roost-bench: $(B)/bench/roost-bench.o $(B)/libbench.a $(B)/libroost.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LINK $@")
	$(Q)$(call link,$^)

$(TESTS) $(HELPERS): $(B)/%: $(B)/%.o $(B)/libbench.a $(B)/libroost.a
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka
$(BENCHES): $(B)/%: $(B)/%.o $(B)/libbench.a $(B)/libroost.a
	$(Q)$(call link,$^)
# The simulation brings its own loop and workers: its objects come before the archive, so the
# real ones are never pulled in.
$(B)/tests/sim/roost-sim: $(SIM_SRC:%.c=$(B)/%.o) $(B)/libroost.a
	@mkdir -p $(@D)
	$(Q)$(call link,$^ -Wl$(comma)--wrap=calloc$(comma)--wrap=park_supersede_here)
# A fuzz target with a small main that replays its corpus: part of make check.
$(FUZZ_REPLAY): $(B)/%: $(B)/%.o $(B)/tests/fuzz/replay.o $(B)/libbench.a $(B)/libroost.a
	$(Q)$(call link,$^)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

# --- tests ----------------------------------------------------------------------------------

check: deps-check $(WOLF)/.done ## All tests (installs what is missing); ends in "N passed, N failed".
	@$(MAKE) --no-print-directory check-built

check-built: tests-built
	@B=$(B) BIN=$(BIN) PATIENCE=$(or $(PATIENCE),1) sh tests/run.sh $(T)

build-tests: deps-check $(WOLF)/.done
	@$(MAKE) --no-print-directory tests-built

tests-built: $(PROGRAMS) $(TESTS) $(HELPERS) $(FUZZ_REPLAY) $(if $(SIM_SRC),$(B)/tests/sim/roost-sim)

check-old-kernel: ## The test suite on Debian 12's kernel 6.1 in an emulated machine: 40 minutes, needs root.
	$(call need,$(PACKAGES_EMULATE))
	@sh tests/old_kernel.sh $(T)

asan: ## The test suite under AddressSanitizer and UBSan.
	@$(MAKE) --no-print-directory check SAN=address,undefined PATIENCE=2
tsan: ## The test suite under ThreadSanitizer.
	@$(MAKE) --no-print-directory check SAN=thread PATIENCE=4
clang: deps-lint ## The test suite built by clang.
	@$(MAKE) --no-print-directory check CC=clang

N ?= 2000
sim: deps $(WOLF)/.done ## More of the deterministic simulation: make sim N=10000 [SEED=...].
	@$(MAKE) --no-print-directory $(B)/tests/sim/roost-sim
	@$(B)/tests/sim/roost-sim --runs $(N) $(if $(SEED),--seed $(SEED))

S ?= 600
fuzz: deps-lint ## One fuzz target: make fuzz T=wbxml S=60.
	@sh tests/fuzz/run.sh "$(T)" "$(S)"
fuzz-all: deps-lint ## Every fuzz target for S seconds each.
	@sh tests/fuzz/run.sh all "$(S)"

bench: all ## Every figure of bench/RESULTS.md: tables and JSON lines (bench-NAME: one of them).
	@$(MAKE) --no-print-directory $(BENCHES)
	@B=$(B) BIN=$(BIN) ROOST_COMMIT=$(COMMIT) sh bench/run.sh $(BENCH_SCENARIOS)
BENCH_SCENARIOS := handshake hold wake burst send load day storm upgrade commit peers grow
BENCH_TARGETS := $(BENCH_SCENARIOS:%=bench-%) bench-million bench-soak bench-crash
.PHONY: $(BENCH_TARGETS)
$(BENCH_TARGETS): bench-%: all
	@$(MAKE) --no-print-directory $(BENCHES)
	@B=$(B) BIN=$(BIN) ROOST_COMMIT=$(COMMIT) sh bench/run.sh $*

demo: ## Set everything up, push a phone, park 10,000 more and wake them.
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh deploy/demo.sh
run: ## The same server in the foreground, with an account to try.
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh deploy/run.sh

# --- care -----------------------------------------------------------------------------------

OURS = $(wildcard core/*.[ch] core/*/*.[ch] io/*.[ch] store/*.[ch] bench/*.[ch] bench/*/*.[ch] tests/*/*.[ch])
format: ## clang-format everything.
	@clang-format -i $(OURS)
lint: deps-lint layers $(GEN)/.done ## Layers, clang-tidy, cppcheck.
	@sh deploy/lint.sh $(sort $(LIB_SRC) $(MAINS) $(wildcard bench/*.c bench/*/*.c))
layers: ## Who includes whom (ARCHITECTURE.md).
	@sh deploy/layers.sh
cover: ## Line coverage of the test suite.
	@$(MAKE) --no-print-directory check COVER=1
	@sh deploy/cover.sh $(B:%=%-cover)

man: all deps-man
	@$(MAKE) --no-print-directory $(MAN)
# The manual of the configuration lists the keys as config.def has them.
build/man/roost.conf.5: deploy/man/roost.conf.5.scd $(BIN)/roostctl
	@mkdir -p $(@D)
	@$(BIN)/roostctl config man > build/keys.scd
	@sed -e '/^@KEYS@$$/{' -e 'r build/keys.scd' -e 'd' -e '}' $< | scdoc > $@
build/man/%: deploy/man/%.scd
	@mkdir -p $(@D)
	@scdoc < $< > $@

PREFIX  ?= /usr/local
install: man ## Install programs, manual pages, unit and example into PREFIX.
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man $(DESTDIR)/etc/roost \
		$(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	for m in $(MAN); do s=$${m##*.}; install -D -m 644 $$m \
		$(DESTDIR)$(PREFIX)/share/man/man$$s/$${m##*/}; done
	install -m 644 deploy/roost.conf.example $(DESTDIR)/etc/roost/roost.conf.example
	sed 's|/usr/local/|$(PREFIX)/|' deploy/roostd.service > build/roostd.service
	install -m 644 build/roostd.service $(DESTDIR)$(PREFIX)/lib/systemd/system/roostd.service
	install -D -m 644 deploy/sysusers-roost.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/roost.conf

clean: ## Remove what was built (not wolfSSL).
	@rm -rf bin build/gcc* build/clang* build/gen build/man build/roostd.service
