# lighter: bare `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help build agents man install demo test lint format fuzz attack bench bench-scheduling bench-web axe guix-lab guix-lab-down test-guix bench-guix clean

GO         ?= go
BUILD      := build
PREFIX     ?= /usr/local
# Agents are uploaded to machines, so they are made for all of these.
PLATFORMS  := linux-amd64 linux-arm64 linux-arm linux-386 linux-riscv64 linux-ppc64le
FUZZTIME   ?= 10m
PACKAGES   ?= ./...
# With tests that have the build tag guixlab.
GUIXPACKAGES ?= machines store/daemon cmd/lighter-agent internal/guixlab
SOURCES    := $(shell find . -name '*.go' -not -path './build/*' 2>/dev/null) go.mod go.sum
LDFLAGS    := -s -w

export CGO_ENABLED = 0

# The race detector needs cgo and a C compiler. CI has one; a developer asks with RACE=1.
TESTCGO := 0
ifneq ($(CI)$(RACE),)
TESTFLAGS += -race
TESTCGO := 1
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(BUILD)/lighter $(BUILD)/lighter-agent $(BUILD)/lighter-guix ## lighter, lighter-agent and lighter-guix for this machine, in build/

$(BUILD)/lighter $(BUILD)/lighter-agent $(BUILD)/lighter-guix: $(BUILD)/%: $(SOURCES)
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

agents: $(PLATFORMS:%=$(BUILD)/agents/lighter-agent-%) ## static agents for every platform, in build/agents/

$(BUILD)/agents/lighter-agent-%: $(SOURCES)
	GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/lighter-agent

man: $(BUILD)/man ## a manual page for every command, in build/man/

$(BUILD)/man: $(SOURCES)
	rm -rf $(BUILD)/man && mkdir -p $(BUILD)/man
	$(GO) run ./internal/cli/manpages $(BUILD)/man

install: build agents man ## into PREFIX (/usr/local), or below DESTDIR; starts nothing
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/lighter $(BUILD)/lighter-agent
	install -D -t $(DESTDIR)$(PREFIX)/libexec/lighter $(BUILD)/lighter-guix
	install -D -t $(DESTDIR)$(PREFIX)/lib/lighter/agents $(PLATFORMS:%=$(BUILD)/agents/lighter-agent-%)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(BUILD)/man/*.1
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysusers.d examples/sysusers.d/lighter.conf
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in lighter-coordinator lighter-web; do \
		sed 's|/usr/local|$(PREFIX)|' examples/systemd/$$unit.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit 1; \
	done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BUILD)/lighter completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/lighter
	$(BUILD)/lighter completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_lighter
	$(BUILD)/lighter completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/lighter.fish

demo: build ## a coordinator and three machines on loopback build lighter's own source tree
	$(BUILD)/lighter demo

test: ## all tests (with the race detector in CI, or with RACE=1)
	CGO_ENABLED=$(TESTCGO) $(GO) vet $(PACKAGES)
	$(GO) vet -tags guixlab $(GUIXPACKAGES:%=./%)
	CGO_ENABLED=$(TESTCGO) $(GO) test -timeout 20m $(TESTFLAGS) $(PACKAGES)

# What the tests of pages check accessibility with: the package's version and hash are in that file.
AXE := internal/web/webtest/axe-core.sha256

axe: $(BUILD)/axe-core/axe.min.js ## axe-core, with npm, into build/: the tests of pages in a browser want it

$(BUILD)/axe-core/axe.min.js: $(AXE)
	rm -rf $(@D) && mkdir -p $(@D)
	name=$$(sed -n 's/.*  \(.*\)-\([0-9.]*\)\.tgz$$/\1@\2/p' $<) && npm pack --silent --pack-destination $(@D) $$name
	cd $(@D) && sha256sum -c $(CURDIR)/$< && tar -xzf *.tgz --strip-components 1 package/axe.min.js package/LICENSE && touch axe.min.js

lint: ## golangci-lint, pinned in .tools/go.mod
	cd .tools && $(GO) build -o ../$(BUILD)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(BUILD)/golangci-lint run $(PACKAGES)

format: ## rewrite the sources with gofumpt and goimports
	cd .tools && $(GO) build -o ../$(BUILD)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(BUILD)/golangci-lint fmt ./...

fuzz: ## every fuzz target for FUZZTIME each (10m)
	@grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' . | sed 's|^\./||; s|/[^/]*:[0-9]*:func | |' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		$(GO) test ./$$package -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x || exit 1; \
	done

ATTACKS ?= 2000

attack: ## ATTACKS builds of each kind whose outputs are changed from outside meanwhile (2000), as root also as an ordinary user
	$(GO) test -c -o $(BUILD)/attack.test ./store/local
	$(BUILD)/attack.test -test.v -test.run '^TestAccomplice' -attack-builds $(ATTACKS) -test.timeout 3h
	$(GO) test ./nar -run '^TestAttacked' -attack-rounds $(ATTACKS) -timeout 3h

bench: build ## the figures of docs/performance.md, with the peers in the same run
	$(GO) run ./internal/bench $(BENCHFLAGS)

bench-scheduling: ## the scheduler in the simulator beside others', on graphs of real packages; SCHEDULINGFLAGS=-quick takes two minutes
	$(GO) run ./internal/bench/scheduling $(SCHEDULINGFLAGS)

bench-web: build ## first bytes and sizes of the page's pages over a million builds, and what 500 streams of events cost
	$(GO) run ./internal/bench/webload $(WEBFLAGS)

guix-lab: ## real Guix machines in folders, to try things on (root, Debian; docs/guix-lab.md)
	internal/guixlab/lab.sh up

test-guix: build agents guix-lab ## the tests with real guix-daemons and SSH servers, in that lab
	mkdir -p $(BUILD)/guixtests
	for package in $(GUIXPACKAGES); do \
		CGO_ENABLED=$(TESTCGO) $(GO) test -c $(TESTFLAGS) -tags guixlab -o $(BUILD)/guixtests/$$(basename $$package).test ./$$package || exit 1; \
	done
	for package in $(GUIXPACKAGES); do \
		internal/guixlab/lab.sh enter head env -C /src/$$package CI=$(CI) \
			/src/$(BUILD)/guixtests/$$(basename $$package).test -test.timeout 20m $(GUIXTESTFLAGS) || exit 1; \
	done

bench-guix: build agents guix-lab ## the figures beside "guix offload" of docs/performance.md, in that lab
	$(GO) build -o $(BUILD)/guix-bench ./internal/guixlab/bench
	internal/guixlab/lab.sh enter head /src/$(BUILD)/guix-bench $(GUIXBENCHFLAGS)

guix-lab-down: ## remove them
	internal/guixlab/lab.sh down

clean: ## remove build/
	rm -rf $(BUILD)
