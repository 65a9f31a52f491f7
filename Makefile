# Everything that a user or a machine of CI calls. `make demo` shows it work, `make test` tests it.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATIC   = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
STRIP    = -ldflags "-s -w"
EMBED    = core/internal/host/bin

.PHONY: build demo demo-release test bench chaos fuzz clean

# build leaves bin/snapfw and, in plugins.d/, the plugins with their sums. The permissions are those
# that the loader demands, whatever the umask.
build:
	@mkdir -p bin
	GOOS=linux GOARCH=amd64 $(STATIC) $(STRIP) -o $(EMBED)/snapfw-host-linux-amd64 ./cmd/snapfw-host
	GOOS=linux GOARCH=arm64 $(STATIC) $(STRIP) -o $(EMBED)/snapfw-host-linux-arm64 ./cmd/snapfw-host
	$(STATIC) -ldflags "-s -w -X github.com/snapfw/snapfw/core/cli.Version=$(VERSION)" -o bin/snapfw ./cmd/snapfw
	$(STATIC) $(STRIP) -o plugins.d/snapfw-harmony ./drivers/harmony
	$(STATIC) $(STRIP) -o plugins.d/snapfw-erigon ./drivers/erigon
	$(STATIC) $(STRIP) -o plugins.d/snapfw-rclone ./sinks/rclone
	$(STATIC) $(STRIP) -o plugins.d/snapfw-r2 ./sinks/r2
	$(STATIC) $(STRIP) -o bin/snapfw-devnet ./drivers/harmony/devnet
	$(STATIC) $(STRIP) -o bin/snapfw-erigon-devnet ./drivers/erigon/devnet
	cd bin && for n in erigon integration downloader; do ln -sf snapfw-erigon-devnet $$n; done
	cd plugins.d && sha256sum snapfw-* > SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS
	chmod 755 bin bin/* plugins.d plugins.d/snapfw-*
	chmod 644 plugins.d/*.yaml plugins.d/SHA256SUMS

demo: build
	@examples/demo/demo.sh

demo-release: build
	@examples/erigon/demo.sh

# test builds, installs what the tests stand on where it is missing, and tests everything but what
# `make chaos` and `make bench` run at length.
test: build
	.ci/tools
	$(GO) vet ./...
	SNAPFW_BIN=$(CURDIR)/bin $(GO) test -race -timeout 30m ./...

# chaos kills snapfw at every point and at every pair of points.
chaos:
	SNAPFW_CHAOS=1 $(GO) test -timeout 2h -v -run 'Death' ./core/internal/engine

# bench measures and prints one table; nothing fails on a figure. `go run ./examples/bench -list` names its groups.
bench:
	@$(GO) run ./examples/bench $(GROUPS)

# fuzz gives every fuzz target FUZZTIME.
FUZZTIME ?= 30s
fuzz:
	@for pkg in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
		echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; done; done

clean:
	rm -rf bin $(EMBED)/snapfw-host-* plugins.d/snapfw-* plugins.d/SHA256SUMS
