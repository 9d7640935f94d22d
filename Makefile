# What there is to do here; `make help` lists it.

PREFIX ?= /usr/local
DESTDIR ?=
SEEDS ?= 1000
SWIFT ?= swift

sources := Package.swift $(shell find Sources CShim -type f)

.PHONY: all help demo test test-all test-sanitizers test-settings test-suites bench bench-lecture bench-queues bench-zerocopy profile simulate check install uninstall clean

## all: build/libanp.so and build/anp (the default)
all: build/libanp.so build/anp

# Embedded Swift and ordinary Swift make different things of the same modules: the library has a build directory of its own.
# Made under another name first: a program may be running from the old file. Symbols and line numbers for gdb and perf stay in
# libanp.so.debug beside it.
build/libanp.so: $(sources)
	@scripts/install-deps.sh build
	$(SWIFT) build -c release --traits Embedded --product anp --scratch-path .build-embedded
	@mkdir -p build
	@objcopy --only-keep-debug .build-embedded/release/libanp.so build/libanp.so.debug
	@objcopy --strip-unneeded --add-gnu-debuglink=build/libanp.so.debug .build-embedded/release/libanp.so $@.new
	@mv -f $@.new $@

build/anp: $(sources)
	@scripts/install-deps.sh build
	$(SWIFT) build -c release --product anp-command --static-swift-stdlib
	@mkdir -p build
	@strip -o $@.new .build/release/anp-command && mv -f $@.new $@

## demo: an unmodified curl downloads from an unmodified nginx, through the stack inside curl
demo: all
	@scripts/install-deps.sh demo
	@scripts/demo.sh

## test: unit and simulator tests, the launcher, a quick run of real programs (under 15 minutes)
test: all
	@scripts/install-deps.sh test
	@scripts/test.sh quick

## test-all: the same with every program and size
test-all: all
	@scripts/install-deps.sh test
	@scripts/test.sh all

## test-sanitizers: unit and simulator tests under ThreadSanitizer and AddressSanitizer, programs under the latter
test-sanitizers: all
	@scripts/install-deps.sh test
	@scripts/test.sh sanitizers

## test-settings: the quick run of programs with each offload off, without busy polling, with a short ring, with more queues (some 20 minutes)
test-settings: all
	@scripts/install-deps.sh test
	@scripts/test.sh settings

## test-suites: CPython's own tests of sockets, natively and under the library with ANP_LOOPBACK=stack (some ten minutes)
test-suites: all
	@scripts/install-deps.sh suites
	@python3 -B scripts/suites/main.py

## bench: programs under the library against the same on the kernel's TCP over veth (some four minutes)
bench: all
	@scripts/install-deps.sh test
	@scripts/bench.sh

## bench-lecture: the classic optimisations on and off, one by one; table and plot go to docs/
bench-lecture: all
	@scripts/install-deps.sh bench
	@/usr/bin/python3 -B scripts/bench/lecture.py

## bench-queues: two threads on one queue of the device and on two, and on the kernel's TCP (a minute and a half)
bench-queues: all
	@scripts/install-deps.sh test
	@python3 -B scripts/bench/queues.py

## bench-zerocopy: write against send with MSG_ZEROCOPY, the kernel's and the stack's (a minute)
bench-zerocopy: all
	@scripts/install-deps.sh test
	@python3 -B scripts/bench/zerocopy.py

## profile: where the time of send, receive and round trips goes: a list each, and a flame graph in results/profile
profile: all
	@scripts/install-deps.sh profile
	@python3 -B scripts/bench/profile.py

## simulate: transfers over simulated bad links, SEEDS=1000 of them by default
simulate:
	$(SWIFT) build -c release --product anp-simulate
	.build/release/anp-simulate --seeds $(SEEDS)

## check: format, layers, scripts, and the library as a file (what it needs and exports, its size)
check: build/libanp.so
	$(SWIFT) format lint --strict --recursive --parallel Package.swift Sources Tests
	scripts/check-layers.py
	scripts/check-layers.py --self-test
	shellcheck --severity=warning scripts/*.sh
	scripts/check-library.sh

## install: the library, the command and tap.sh under PREFIX (/usr/local), below DESTDIR if set
install: all
	install -d $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/anp
	install -m 755 build/libanp.so $(DESTDIR)$(PREFIX)/lib/libanp.so
	install -m 755 build/anp $(DESTDIR)$(PREFIX)/bin/anp
	install -m 755 scripts/tap.sh $(DESTDIR)$(PREFIX)/libexec/anp/tap.sh

## uninstall: removes these again
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/lib/libanp.so $(DESTDIR)$(PREFIX)/bin/anp $(DESTDIR)$(PREFIX)/libexec/anp/tap.sh
	-rmdir $(DESTDIR)$(PREFIX)/libexec/anp 2>/dev/null

## clean: removes everything that was built
clean:
	rm -rf build results .build .build-*

## help: this list
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)
