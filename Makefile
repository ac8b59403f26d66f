# The words people type. `make help` lists them.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help build binaries kernel rootfs demo bench test test-unit test-host test-engines test-peer test-nested stress check \
	install clean build-packages demo-packages test-packages engine-packages bench-packages

PREFIX ?= /usr/local
DESTDIR ?=
TARGET := x86_64-unknown-linux-gnu
OUT := target/$(TARGET)
RUNVM := $(OUT)/release/runvm
AGENT := $(OUT)/guest/runvm-agent
# What a user would have under PREFIX, put together in the build directory.
STAGE := $(CURDIR)/target/stage
SHARE := $(STAGE)/share/runvm
YOUKI_VERSION := 0.7.0
YOUKI := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/runvm/youki-$(YOUKI_VERSION)

BUILD_PACKAGES := gcc libc6-dev make flex bison bc libelf-dev libssl-dev xz-utils linux-source-6.12
DEMO_PACKAGES := busybox-static qemu-system-x86
TEST_PACKAGES := runc criu strace procps iproute2 uidmap systemd dbus
ENGINE_PACKAGES := podman netavark buildah containerd docker.io iptables catatonit
BENCH_PACKAGES := runc crun podman pkg-config libseccomp-dev
HOST_PACKAGES := qemu-system-common zstd kmod

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

build: binaries kernel rootfs ## Build runvm, the agent, the guest's kernel and its initramfs

# The C library is linked in: runvm re-executes itself inside containers, and the agent is alone in the guest.
binaries: build-packages
	@command -v cargo >/dev/null || { echo "runvm: cargo is missing: install Rust 1.88 or later (https://rustup.rs)" >&2; exit 1; }
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target $(TARGET) -p runvm
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile guest --target $(TARGET) -p runvm-agent
	install -D -m 755 $(RUNVM) $(STAGE)/bin/runvm

kernel: build-packages ## Build the guest's kernel from Debian's source (minutes the first time, then cached)
	@kernel=$$(guest-kernel-config/build) && install -D -m 644 "$$kernel" $(SHARE)/vmlinux

rootfs: binaries ## Pack the agent into the guest's initramfs
	@mkdir -p $(SHARE) && rootfs/build $(AGENT) $(SHARE)/initramfs.cpio

demo: demo-packages build ## Run one bundle in both isolations and draw the two start-ups
	@tests/demo $(STAGE)/bin/runvm

bench: demo-packages bench-packages binaries $(YOUKI)/bin/youki ## Measure beside other runtimes, as Markdown tables
	PATH="$(YOUKI)/bin:$$PATH" RUNVM_BIN=$(STAGE)/bin/runvm RUSTFLAGS="-C target-feature=+crt-static" \
		cargo bench --target $(TARGET) -p runvm-tests --bench containers

# Kept beside the kernel, as it takes minutes too. Where it cannot be built, the benchmark says that it is left out.
$(YOUKI)/bin/youki:
	-cargo install youki --version $(YOUKI_VERSION) --features v1,v2,seccomp --locked --root $(YOUKI)

test: test-unit test-host test-engines test-peer test-nested ## Run every test
	@echo "all tests passed"

test-unit: build-packages demo-packages test-packages ## Test the crates
	cargo test --workspace --exclude runvm-tests

test-host: demo-packages test-packages build ## Test whole behaviours on this machine, in both isolations
	RUNVM_BIN=$(STAGE)/bin/runvm cargo test -p runvm-tests --test system
	RUNVM_BIN=$(STAGE)/bin/runvm tests/under-systemd cargo test -p runvm-tests --test system systemd::

test-engines: demo-packages test-packages engine-packages binaries ## Test container isolation under podman, buildah, containerd and Docker
	RUNVM_BIN=$(STAGE)/bin/runvm cargo test -p runvm-tests --test engines

test-peer: demo-packages test-packages ## Prove the container tests with runc in runvm's place
	RUNVM_BIN=runc cargo test -p runvm-tests --test system
	RUNVM_BIN=runc tests/under-systemd cargo test -p runvm-tests --test system systemd::

test-nested: demo-packages test-packages build ## Test whole behaviours in a nested host with KVM and cgroup v2
	tests/nested $(STAGE)/bin/runvm

stress: demo-packages test-packages build ## Try every fault at every system call, and many operations at once (hours)
	RUNVM_TEST_STRESS=1 RUNVM_BIN=$(STAGE)/bin/runvm cargo test -p runvm-tests --test system -- injected:: scarce:: stress::

check: ## Formatting, lints, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: dependencies not checked"; fi

install: ## Install below PREFIX (after `make build`)
	install -D -m 755 $(STAGE)/bin/runvm $(DESTDIR)$(PREFIX)/bin/runvm
	install -D -m 644 $(SHARE)/vmlinux $(DESTDIR)$(PREFIX)/share/runvm/vmlinux
	install -D -m 644 $(SHARE)/initramfs.cpio $(DESTDIR)$(PREFIX)/share/runvm/initramfs.cpio

clean: ## Remove what was built here; the kernel stays in the cache
	rm -rf target

# Installs those of $(1) that are missing, saying which; $(2) comes right before.
define ensure
	@missing=$$(for package in $(1); do \
		[ "$$(dpkg-query -Wf '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || echo $$package; done); \
	[ -z "$$missing" ] || { echo "installing" $$missing; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$(2) \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }
endef

# The services of packages stay down while they are installed: what would start them asks this file, see
# invoke-rc.d(8). Where there is one, the machine has a policy already.
define without_services
policy=/usr/sbin/policy-rc.d; [ -e $$policy ] || { trap "$$sudo rm -f $$policy" EXIT; \
			printf '#!/bin/sh\nexit 101\n' | $$sudo install -m 755 /dev/stdin $$policy; };
endef

build-packages: ; $(call ensure,$(BUILD_PACKAGES))
demo-packages: ; $(call ensure,$(DEMO_PACKAGES))
bench-packages: ; $(call ensure,$(BENCH_PACKAGES))
test-packages: ; $(call ensure,$(TEST_PACKAGES) $(HOST_PACKAGES))
engine-packages: ; $(call ensure,$(ENGINE_PACKAGES),$(without_services))
