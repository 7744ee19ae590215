# Signalbox. `make` alone lists what there is; README.md needs two of these: `make run` and `make test`.

VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LINT_MODULE := github.com/golangci/golangci-lint/v2
LINT_CMD    := $(LINT_MODULE)/cmd/golangci-lint
# One binary per version of the linter and of Go: a linter built by an older Go refuses newer code.
LINT        := bin/tools/golangci-lint-$(shell sed -n 's|^[[:space:]]*$(LINT_MODULE) ||p' tools/go.mod | cut -d' ' -f1)-$(shell go env GOVERSION)
FUZZTIME    ?= 5s

# The version comes from git describe above; Go's own stamping fails where git distrusts the folder's owner.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help build run test test-deps lint fmt cover fuzz clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/signalbox, one file without cgo
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/signalbox ./cmd/signalbox

run: build ## build and start the hub (ARGS='--http :9090' adds flags)
	bin/signalbox serve $(ARGS)

test: test-deps ## install what the tests need, then run all of them with the race detector
	CGO_ENABLED=1 go vet ./...
	CGO_ENABLED=1 go test -race -shuffle=on -timeout 15m ./...

test-deps:
	@scripts/test-deps

lint: $(LINT) ## run the linters of .golangci.yml, version pinned in tools/go.mod
	$(LINT) run ./...

fmt: $(LINT) ## format the Go code
	$(LINT) fmt ./...

cover: test-deps ## run the tests and write bin/cover.html
	@mkdir -p bin
	CGO_ENABLED=1 go test -timeout 15m -coverpkg=./... -coverprofile=bin/cover.out ./...
	go tool cover -html=bin/cover.out -o bin/cover.html
	@go tool cover -func=bin/cover.out | tail -n 1

fuzz: ## run each fuzz target for FUZZTIME (5s)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

clean: ## remove what was built (the linter and ./data stay)
	rm -f bin/signalbox bin/cover.out bin/cover.html

# No prerequisites: the file's name holds all it depends on, and a fresh checkout's time stamps say nothing.
$(LINT):
	@mkdir -p bin/tools
	@rm -f bin/tools/golangci-lint-*
	@echo "building $(@F), once (about two minutes on two cores)"
	@go build -C tools -o $(abspath $@) $(LINT_CMD)
