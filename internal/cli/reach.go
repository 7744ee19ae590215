package cli

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

// A reach is a way to a hub's API, see the package comment.
type reach struct {
	*client.Hub
	// remote is set for a hub that was named by its address.
	remote bool
	// alive is false where no hub runs and the API is served inside this process.
	alive bool
	close func() error
}

const (
	// localBase is the address written in requests that go over the socket or stay inside.
	localBase = "http://localhost"
	// lockPatience is how long a hub that holds the lock may take to open its socket.
	lockPatience = 5 * time.Second
	dialTimeout  = 5 * time.Second
)

// A need is what a command asks of the data directory when no hub runs on it.
type need int

const (
	// needData refuses a directory that holds no data: there is nothing to read or change.
	needData need = iota
	// needPlace makes the directory where it is missing.
	needPlace
	// needHub wants a running hub.
	needHub
)

// reachHub finds the hub. Close the reach when done.
func (c *command) reachHub(ctx context.Context, what need) (*reach, error) {
	if remote := c.remoteURL(); remote != "" {
		return c.reachRemote(remote)
	}
	dir, err := c.dataDir()
	if err != nil {
		return nil, err
	}
	if r := reachSocket(ctx, dir); r != nil {
		return r, nil
	}
	switch {
	case what == needHub:
		return nil, signalbox.Errorf(signalbox.KindUnavailable, "no_hub", "no hub runs on the data directory %s; start one with «signalbox serve», or name another by --data or --url", dir)
	case what == needData && holdsNothing(dir):
		return nil, signalbox.Errorf(signalbox.KindUnavailable, "no_data",
			"there are no data of a hub in %s; «signalbox serve» or «signalbox import» begins there, --data or --url names another place", dir)
	}
	r, err := c.reachInside(ctx)
	if signalbox.CodeOf(err) != "data_locked" {
		return r, err
	}
	// A hub came between, or one is starting or stopping, or another command has the
	// directory for a moment.
	deadline := time.Now().Add(lockPatience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if r := reachSocket(ctx, dir); r != nil {
			return r, nil
		}
		if r, err = c.reachInside(ctx); signalbox.CodeOf(err) != "data_locked" {
			return r, err
		}
	}
	return nil, signalbox.Errorf(signalbox.KindUnavailable, "data_locked",
		"another Signalbox has the data directory %s but does not answer on its socket; try again when it has started", dir)
}

// holdsNothing says whether no hub has ever had the directory.
func holdsNothing(dir string) bool {
	for _, name := range []string{"lock", "signalbox.db"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return false // it is there, or opening it will tell what is wrong
		}
	}
	return true
}

// remoteURL gives the address of a remote hub, empty for a local one. A flag beats a
// variable: with --data, SIGNALBOX_URL does not count.
func (c *command) remoteURL() string {
	switch {
	case c.flags.url != "":
		return c.flags.url
	case c.flags.data != "":
		return ""
	default:
		return c.env("SIGNALBOX_URL")
	}
}

// dataDir gives the data directory by flag, variable, the configuration or the default.
func (c *command) dataDir() (string, error) {
	loaded, err := c.loadConfig(nil)
	return loaded.Config.Data, err
}

func (c *command) reachRemote(address string) (*reach, error) {
	if c.flags.url != "" && c.flags.data != "" {
		return nil, usagef("--url and --data exclude each other: the hub is either remote or here")
	}
	token, err := c.readToken()
	if err != nil {
		return nil, err
	}
	if token == "" {
		return nil, signalbox.Errorf(signalbox.KindUnauthorized, "no_token",
			"the hub at %s needs a token: give --token-file, --token or SIGNALBOX_TOKEN; on the hub's machine «signalbox token create NAME» makes one", address)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true,
	}
	hub, err := client.New(address, client.WithToken(token), client.WithTransport(pulse{transport}))
	if err != nil {
		return nil, err
	}
	return &reach{Hub: hub, remote: true, alive: true, close: letGo(transport)}, nil
}

func (c *command) readToken() (string, error) {
	file := c.flags.tokenFile
	switch {
	case c.flags.token != "" && file != "":
		return "", usagef("--token and --token-file exclude each other")
	case c.flags.token != "":
		return c.flags.token, nil
	case file == "" && c.env("SIGNALBOX_TOKEN") != "":
		return c.env("SIGNALBOX_TOKEN"), nil
	case file == "":
		file = c.env("SIGNALBOX_TOKEN_FILE")
	}
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("the token file %s cannot be read: %s", file, app.Cause(err))
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", usagef("the token file %s is empty", file)
	}
	return token, nil
}

// reachSocket gives the way over the socket in dir, nil if nobody answers there: no file,
// or a stale one of a hub that was killed.
func reachSocket(ctx context.Context, dir string) *reach {
	probe, err := app.DialLocal(ctx, dir)
	if err != nil {
		return nil
	}
	_ = probe.Close() // it carried nothing
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return app.DialLocal(ctx, dir) },
		MaxIdleConnsPerHost: 8,
	}
	hub, err := client.New(localBase, client.WithTransport(transport))
	if err != nil {
		return nil // it is a good address
	}
	return &reach{Hub: hub, alive: true, close: letGo(transport)}
}

// letGo closes the connections that are kept for the next request.
func letGo(t *http.Transport) func() error {
	return func() error {
		t.CloseIdleConnections()
		return nil
	}
}

// reachInside takes the data directory and serves the API in this process. Its faults end
// with code 1, save that somebody else has the directory.
func (c *command) reachInside(ctx context.Context) (*reach, error) {
	loaded, err := c.loadConfig(nil)
	if err != nil {
		return nil, err
	}
	dir := loaded.Config.Data
	fresh := holdsNothing(dir)
	logger := slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: max(slog.LevelWarn, loaded.Config.Log.Level)}))
	hub, err := app.Open(ctx, app.Options{Config: loaded.Config, Logger: logger, Version: c.version()})
	if err != nil {
		if signalbox.CodeOf(err) == "data_locked" {
			return nil, err
		}
		return nil, failureError{err}
	}
	if fresh {
		c.notef("Made the data directory %s; no hub runs on it yet.\n", clean(dir))
	}
	transport := newInside(hub.LocalAPI())
	api, err := client.New(localBase, client.WithTransport(transport))
	if err != nil {
		return nil, errors.Join(err, hub.Close())
	}
	return &reach{Hub: api, close: func() error {
		transport.wait()
		return hub.Close()
	}}, nil
}
