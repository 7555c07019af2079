# Everything that can be run on this tree. `make test` is what CI runs; it needs Go and nothing else beforehand.

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -ec
export PATH := $(PATH):/usr/sbin:/sbin

GO         ?= go
STATIC     := $(GO) tool -modfile=tools/go.mod staticcheck
SUMMARY    := bin/testsummary -notes bin/not-run
CROSS      := windows/amd64 darwin/arm64
FUZZTIME   ?= 20s
# What make unit and make test-release test.
PACKAGES   ?= ./...
# Packages in which a race would cost data: they run three times in the long tier.
KEY        := ./pipe/... ./repo/... ./job/...
SUB        := $(MAKE) --no-print-directory

# The race detector needs a C compiler. Without one the tests run all the same, and the summary says so.
race       = $(shell command -v $${CC:-gcc} >/dev/null && echo -race)

# What a component is built for. The folder is what guest.ProgramsIn takes.
AGENT_VERSION ?= 0.0.0
AGENTS     := linux-amd64 linux-arm64 windows-amd64

.PHONY: help build agents test test-long test-release check unit lint bench fuzz deps fmt vet staticcheck clean $(CROSS)

help:
	@echo "make build         bin/hikae, and bin/agents"
	@echo "make agents        bin/agents: the component for guests, for each system"
	@echo "make test          checks, all tests of the fast tier, builds for other systems"
	@echo "make lint          formatting, vet, staticcheck"
	@echo "make fuzz          every fuzz target for FUZZTIME=$(FUZZTIME)"
	@echo "make test-long     more of everything: up to an hour"
	@echo "make test-release  full figures: hours; PACKAGES=./repo/... for those of some packages"
	@echo "make bench         measures against restic and borgbackup, writes docs/benchmarks.md; needs root and 25 GB"

# The components lie beside the program, where it looks for them.
build: agents
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/hikae ./examples/hikae

# Of a Windows program the file's own name has the ending. Beside that component lies the program for Hyper-V hosts.
agents: $(AGENTS:%=agent-%)
	@echo $(AGENT_VERSION) >bin/agents/version

agent-%:
	@os=$(firstword $(subst -, ,$*)); arch=$(lastword $(subst -, ,$*)); to=bin/agents/$*; mkdir -p $$to; \
	[ $$os = windows ] && to=$$to/hikae-agent.exe || to=$$to/hikae-agent; \
	GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(AGENT_VERSION)" -o $$to ./guest/agent/hikae-agent || exit 1; \
	[ $$os != windows ] || GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(AGENT_VERSION)" \
		-o bin/agents/$*/hikae-hyperv.exe ./hyperv/helper/hikae-hyperv

# Both halves run, whatever the first says; the summary of the tests comes last.
test: deps
	@status=0; $(SUB) check || status=1; $(SUB) unit || status=1; \
	[ $$status = 0 ] || { echo "make test: something above failed" >&2; exit 1; }

check:
	@$(SUB) -k -j2 -Otarget lint $(CROSS)

unit: bin/testsummary
	@$(if $(race),,echo "race detector: no C compiler" >> bin/not-run;) \
	$(SUMMARY) -again "$(GO) test $(race) -json" $(GO) test $(race) -json -timeout 30m $(PACKAGES)

test-long: export HIKAE_TEST_TIER = long
test-long: deps
	@status=0; $(SUB) check || status=1; \
	$(SUB) bin/testsummary; \
	$(SUMMARY) $(GO) test $(race) -json -timeout 50m ./... || status=1; \
	$(SUMMARY) $(GO) test $(race) -json -timeout 50m -count 3 -skip '^Fuzz' $(KEY) || status=1; \
	tools/fuzz $(FUZZTIME) today || status=1; exit $$status

# Without the race detector, with which it would take days: the other tiers have it.
test-release: export HIKAE_TEST_TIER = release
test-release: deps bin/testsummary
	@$(SUMMARY) $(GO) test -json -timeout 12h $(PACKAGES)

lint: fmt vet staticcheck

fmt:
	@bad=$$(find . -name '*.go' -not -path './.*' -print0 | xargs -0 gofmt -l); \
	[ -z "$$bad" ] || { echo "gofmt: $$bad"; exit 1; }

vet:
	@$(GO) vet ./...

staticcheck:
	@$(STATIC) ./...

# vet compiles the tests too, which build does not.
$(CROSS):
	@GOOS=$(@D) GOARCH=$(@F) CGO_ENABLED=0 $(GO) build ./...
	@GOOS=$(@D) GOARCH=$(@F) CGO_ENABLED=0 $(GO) vet ./...

fuzz:
	@tools/fuzz $(FUZZTIME) all

bench: build
	@tools/deps restic:restic borg:borgbackup mmdebstrap:mmdebstrap qemu-img:qemu-utils mke2fs:e2fsprogs debugfs:e2fsprogs
	$(GO) run ./internal/bench $(BENCH_FLAGS)

# What could not be installed ends up in bin/not-run and from there in the summary.
deps:
	@mkdir -p bin
	@tools/deps gcc:gcc ld:libc6-dev qemu-img:qemu-utils qemu-io:qemu-utils mke2fs:e2fsprogs debugfs:e2fsprogs \
		mkfs.fat:dosfstools mcopy:mtools strace:strace \
		mkfs.xfs:xfsprogs xfs_repair:xfsprogs ntfs-3g:ntfs-3g mkntfs:ntfs-3g \
		fusermount3:fuse3 sgdisk:gdisk sfdisk:fdisk parted:parted pvcreate:lvm2 libvirtd:libvirt-daemon virsh:libvirt-clients \
		qemu-system-x86_64:qemu-system-x86 lz4:lz4 nbdkit:nbdkit nbdcopy:libnbd-bin \
		ip:iproute2 tc:iproute2 smbd:samba smbpasswd:samba-common-bin \
		/usr/sbin/sshd:openssh-server sudo:sudo tcsh:tcsh openssl:openssl unshare:util-linux mount:mount \
		/usr/sbin/qemu-ga:qemu-guest-agent /usr/lib/postgresql/15/bin/postgres:postgresql-15 \
		/usr/sbin/mariadbd:mariadb-server mariadb-binlog:mariadb-client \
		wixl:wixl msiinfo:msitools osslsigncode:osslsigncode | tee bin/not-run

bin/testsummary: $(wildcard internal/testsummary/*.go)
	@mkdir -p bin && touch bin/not-run
	@$(GO) build -o $@ ./internal/testsummary

clean:
	rm -rf bin
