# Builds, tests and boots kvmish; `make help` lists the targets.

BUILD  ?= build
PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)
CC     ?= gcc
VENV   := .venv
PY     := $(VENV)/bin/python

CFLAGS   := -O2 -g -fPIC -Wall -Wextra $(WERROR) -std=gnu11 -fno-strict-aliasing -fvisibility=hidden
CPPFLAGS := -Ikvm_core -I. -D_GNU_SOURCE=
# What another compiler only warns of stops no user's build; CI sets -Werror.
WERROR   ?=
LDLIBS   := -lZydis -lpthread -ldl -lm
DEPS      = -MMD -MP -MT $@ -MF $(@:.o=.d)
SANITIZE := -fsanitize=address,undefined -fno-omit-frame-pointer

CORE_DIRS := isa cpu mmu jit irq kvm gen
CORE_SRC  := $(sort $(shell find $(wildcard $(CORE_DIRS:%=kvm_core/%)) -name '*.c')) \
             $(wildcard kvm_core/_accel.c kvm_core/runner.c kvm_core/signals.c)
SHIM_SRC  := $(sort $(wildcard kvm_core/shim/*.c))
CORE_OBJ  := $(CORE_SRC:%.c=$(BUILD)/obj/%.o)
# The device file: the process of one VM, and what the broker's FUSE mount calls.
WORKER_SRC := $(addprefix devfs/,worker.c quick.c session.c readers.c objects.c opener.c call.c memory.c mapping.c link.c packet.c \
              ahead.c processor.c confine.c watch.c signals.c hand.c give.c message.c hold.c adopt.c mapped.c trace.c proc.c space.c)
# The launcher: its own files, and what it shares with the worker.
LAUNCH_SRC := $(sort $(wildcard devfs/launch/*.c)) \
              $(addprefix devfs/,readers.c processor.c mapping.c packet.c signals.c message.c hold.c adopt.c mapped.c trace.c proc.c space.c)
BROKER_SRC := $(addprefix devfs/,slots.c pool.c packet.c processor.c)
WORKER_OBJ := $(WORKER_SRC:%.c=$(BUILD)/obj/%.o)
LAUNCH_OBJ := $(LAUNCH_SRC:%.c=$(BUILD)/obj/%.o)
BROKER_OBJ := $(BROKER_SRC:%.c=$(BUILD)/obj/%.o)
SHIM_OBJ  := $(SHIM_SRC:%.c=$(BUILD)/obj/%.o)
ASAN_OBJ  := $(CORE_SRC:%.c=$(BUILD)/asan/obj/%.o)
ASAN_SHIM := $(SHIM_SRC:%.c=$(BUILD)/asan/obj/%.o)
# A thread that is cancelled there unwinds through it.
$(SHIM_OBJ) $(ASAN_SHIM): CFLAGS += -fexceptions
FUZZ_OBJ  := $(CORE_SRC:%.c=$(BUILD)/fuzz/obj/%.o)

LIB     := $(BUILD)/libkvmcore.a
PRELOAD := $(BUILD)/libkvmish-preload.so
DEVFS   := $(BUILD)/kvmish-worker $(BUILD)/libkvmish-devfs.so $(BUILD)/kvmish-launch
EXT     := $(BUILD)/ext.stamp

PACKAGES := devfs kvm_core kvmish libvirtish vmmuser

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: help build core ext asan fuzz generate boot assets assets-full test test-full bench lint clean \
        packages packages-test packages-full packages-bench bench-guest

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## build      every missing system package, .venv, the C core, the Python module (incremental)
build: packages
	@$(MAKE) --no-print-directory ext $(if $(SHIM_SRC),core)
	@$(PY) -m compileall -q $(PACKAGES)

## core       the C core and its doors: libkvmcore.a, libkvmish-preload.so, kvmish-worker, kvmish-launch, ... in build/
core: $(LIB) $(if $(SHIM_SRC),$(PRELOAD)) $(DEVFS)

## ext        the cffi module, in place: kvm_core/_kvm*.so
ext: $(EXT)

## asan       the same objects under ASan and UBSan: build/asan/
asan: $(BUILD)/asan/libkvmcore.a $(if $(SHIM_SRC),$(BUILD)/asan/libkvmish-preload.so)

## fuzz       the core and random requests under libFuzzer, ASan and UBSan, by clang: build/fuzz/ioctls
fuzz: $(BUILD)/fuzz/ioctls

## generate   kvm_core/gen/ from the instruction table, docs/abi.md from the C sources
generate:
	$(PYTHON) kvm_core/isa/generate.py
	$(PYTHON) -m tools.abi_page

## boot       boots Debian's cloud kernel to a shell on this terminal
boot: build assets
	@$(VENV)/bin/kvmish boot $(BOOT_ARGS)

## assets     Debian's cloud kernel and the initramfs, in build/assets/
assets: $(VENV)/ready
	@$(PY) -m tools.assets cloud

assets-full: $(VENV)/ready
	@$(PY) -m tools.assets all

## test       the test suite (TEST_ARGS='-k name' for a part of it)
test: packages-test
	@$(MAKE) --no-print-directory build asan assets
	@$(PY) -m pytest --ignore=tests/bench $(TEST_ARGS)

## test-full  the long runs too; a missing counterpart fails instead of skipping
test-full: packages-full
	@$(MAKE) --no-print-directory build asan assets-full
	@$(PY) -m pytest --full $(TEST_ARGS)

## bench      every row of tests/bench/rows.py beside the host and QEMU TCG; writes docs/performance.md (half an hour)
bench: packages-bench
	@$(MAKE) --no-print-directory build assets
	@$(VENV)/bin/kvmish bench $(BENCH_ARGS)

## lint       ruff, mypy --strict, the arrows of the architecture, generated files
lint: $(VENV)/ready
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/unit/test_layout.py

## clean      removes everything that was built; keeps .venv and the downloaded assets
clean:
	rm -rf $(BUILD)/obj $(BUILD)/asan $(BUILD)/fuzz $(BUILD)/tests $(BUILD)/temp* $(BUILD)/*.a $(BUILD)/*.so \
	       $(BUILD)/*.stamp kvm_core/_kvm.c kvm_core/_kvm*.so

packages:
	@tools/packages.sh build

packages-test:
	@tools/packages.sh build test

packages-full:
	@tools/packages.sh build test full

packages-bench:
	@tools/packages.sh build test bench

# -- Python ---------------------------------------------------------------------------------------
$(VENV)/ready: pyproject.toml
	@echo "kvmish: preparing $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kvmish: needs Python 3.11 or later (Debian 12, Ubuntu 24.04)")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) tools/requirements.py | $(PY) -m pip install -qq --disable-pip-version-check -r /dev/stdin
	@$(PY) tools/entry_points.py
	@touch $@

$(EXT): $(LIB) $(VENV)/ready setup.py kvm_core/_build.py kvm_core/_cdef.h
	@echo "  EXT   kvm_core/_kvm"
	@KVMISH_BUILD=$(BUILD) $(PY) -W ignore setup.py -q build_ext --inplace --build-temp $(BUILD)/temp
	@touch $@

# -- C --------------------------------------------------------------------------------------------
# One object per file, renamed into place, so that two makes at once do no harm; the archive is rewritten whole, so that a deleted source leaves it.
$(LIB): $(CORE_OBJ)
	@echo "  AR    $@"
	@$(AR) rcs $@.$$$$ $^ && mv $@.$$$$ $@

$(PRELOAD): $(SHIM_OBJ) $(LIB)
	@echo "  LINK  $@"
	@$(CC) -shared -Wl,-z,defs -o $@ $^ $(LDLIBS)

$(BUILD)/kvmish-worker: $(WORKER_OBJ) $(LIB)
	@echo "  LINK  $@"
	@$(CC) -o $@.$$$$ $^ $(LDLIBS) && mv $@.$$$$ $@

$(BUILD)/kvmish-launch: $(LAUNCH_OBJ) $(LIB)
	@echo "  LINK  $@"
	@$(CC) -o $@.$$$$ $^ $(LDLIBS) && mv $@.$$$$ $@

$(BUILD)/libkvmish-devfs.so: $(BROKER_OBJ) $(LIB)
	@echo "  LINK  $@"
	@$(CC) -shared -Wl,-z,defs -o $@.$$$$ $^ $(LDLIBS) && mv $@.$$$$ $@

$(BUILD)/asan/libkvmcore.a: $(ASAN_OBJ)
	@echo "  AR    $@"
	@$(AR) rcs $@.$$$$ $^ && mv $@.$$$$ $@

$(BUILD)/asan/libkvmish-preload.so: $(ASAN_SHIM) $(BUILD)/asan/libkvmcore.a
	@echo "  LINK  $@"
	@$(CC) $(SANITIZE) -shared -o $@ $^ $(LDLIBS)

# Executed between two instructions of translated code, whose vector registers are the guest's.
$(BUILD)/obj/kvm_core/mmu/refill.o $(BUILD)/asan/obj/kvm_core/mmu/refill.o $(BUILD)/fuzz/obj/kvm_core/mmu/refill.o: \
    CPPFLAGS += -mgeneral-regs-only

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(DEPS) -c -o $@.$$$$ $< && mv $@.$$$$ $@

$(BUILD)/asan/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  ASAN  $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -O1 $(SANITIZE) $(DEPS) -c -o $@.$$$$ $< && mv $@.$$$$ $@

FUZZ_SANITIZE = address,undefined -fno-sanitize-recover=undefined
FUZZ_CC = clang $(CPPFLAGS) -O1 -g -fPIC -std=gnu11 -fno-strict-aliasing -w
$(BUILD)/fuzz/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  FUZZ  $<"
	@$(FUZZ_CC) -fsanitize=fuzzer-no-link,$(FUZZ_SANITIZE) $(DEPS) -c -o $@.$$$$ $< && mv $@.$$$$ $@

$(BUILD)/fuzz/ioctls: tests/fuzz/ioctls.c $(FUZZ_OBJ)
	@$(FUZZ_CC) -DLIBFUZZER -fsanitize=fuzzer,$(FUZZ_SANITIZE) -o $@ $^ $(LDLIBS)

# A C test program: tests/unit/x.c -> build/tests/unit/x, linked with the core.
$(BUILD)/tests/%: tests/%.c $(LIB) Makefile
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LIB) $(LDLIBS)

QUICK := tests/devfs/quick.c $(patsubst %,$(BUILD)/obj/devfs/%.o,quick readers confine processor)
WATCH := tests/devfs/watch.c $(patsubst %,$(BUILD)/obj/devfs/%.o,watch signals link packet quick readers confine proc processor)
$(BUILD)/tests/devfs/quick: $(QUICK)
$(BUILD)/tests/devfs/watch: $(WATCH)
$(BUILD)/tests/devfs/quick $(BUILD)/tests/devfs/watch: $(LIB) Makefile
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $(filter-out $(LIB) Makefile %.h,$^) $(LIB) $(LDLIBS)

# The same comparison with the host, of the arithmetic in C that other hosts would use.
PORTABLE := tests/isa/harness.c $(addprefix kvm_core/,gen/handlers_int.c cpu/strings.c cpu/intmisc.c)
$(BUILD)/tests/isa/harness-portable: $(PORTABLE) kvm_core/cpu/portable_alu.h $(wildcard tests/isa/*.h) $(LIB) Makefile
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) -DKVMISH_PORTABLE_ALU -o $@ $(PORTABLE) $(LIB) $(LDLIBS)

$(BUILD)/asan/tests/%: tests/%.c $(BUILD)/asan/libkvmcore.a Makefile
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(CFLAGS) -O1 $(SANITIZE) -MMD -MP -MF $@.d -o $@ $< \
	       $(BUILD)/asan/libkvmcore.a $(LDLIBS)

# The benchmarks' programs, for this machine and for the guest: static; the integer ones again without libc, for 32
# bits (which needs no gcc-multilib then) and as small files.
GUEST     := tests/bench/guest
GUEST_BIN := $(addprefix $(BUILD)/bench/guest/,bench bench32 bench-cold)
GUEST_INT := $(addprefix $(GUEST)/,main.c text.c hash.c quicksort.c sha256.c gzip.c interpreter.c tree.c strings.c sieve.c)
GUEST_ALL := $(filter-out $(GUEST)/start.c,$(sort $(wildcard $(GUEST)/*.c)))
GUEST_CC   = $(CC) -std=gnu11 -O2 -Wall -Wextra $(WERROR) -fno-strict-aliasing -static -o $@.$$$$ $(filter %.c,$^)
GUEST_FREE := -DFREESTANDING -ffreestanding -nostdlib -fno-pie -no-pie -fno-stack-protector \
              -fno-tree-loop-distribute-patterns -fno-asynchronous-unwind-tables

$(BUILD)/bench/guest/bench: $(GUEST_ALL) $(wildcard $(GUEST)/*.h) Makefile
	@mkdir -p $(@D)
	@$(GUEST_CC) -lpthread && mv $@.$$$$ $@

$(BUILD)/bench/guest/bench-cold: $(GUEST_INT) $(GUEST)/start.c $(wildcard $(GUEST)/*.h) Makefile
	@mkdir -p $(@D)
	@$(GUEST_CC) $(GUEST_FREE) && mv $@.$$$$ $@

$(BUILD)/bench/guest/bench32: $(GUEST_INT) $(GUEST)/start.c $(wildcard $(GUEST)/*.h) Makefile
	@mkdir -p $(@D)
	@$(GUEST_CC) -m32 $(GUEST_FREE) && mv $@.$$$$ $@

bench-guest: $(GUEST_BIN)

-include $(CORE_OBJ:.o=.d) $(SHIM_OBJ:.o=.d) $(WORKER_OBJ:.o=.d) $(LAUNCH_OBJ:.o=.d) $(BROKER_OBJ:.o=.d) $(ASAN_OBJ:.o=.d) $(ASAN_SHIM:.o=.d) \
         $(FUZZ_OBJ:.o=.d) \
         $(wildcard $(BUILD)/tests/*/*.d $(BUILD)/asan/tests/*/*.d)
