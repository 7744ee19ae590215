package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"signalbox"
)

// SocketName is the socket in the data directory over which the command line speaks to a
// running hub. Whoever may open it owns the data and is admin.
const SocketName = "signalbox.sock"

// localServer serves the socket.
type localServer struct{ server *http.Server }

// maxSocketPath is the longest path of a socket that every system takes, less some room.
const maxSocketPath = 90

// socketPath gives a path that is short enough for a socket address: where the data
// directory's is too long, the way there is by an open directory (Linux).
func socketPath(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, SocketName)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "path_too_long", "the data directory %s has too long a name for a socket in it (%d bytes are allowed)", dir, maxSocketPath-len(SocketName)-1)
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), SocketName), func() { _ = f.Close() }, nil // nothing was written
}

// listenLocal opens the socket; a stale one of a killed process goes, because the
// directory's lock is ours.
func listenLocal(ctx context.Context, dir string) (net.Listener, error) {
	if err := os.Remove(filepath.Join(dir, SocketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the old socket in %s cannot be removed", dir)
	}
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket in %s: %w", dir, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // Serve removes it by its own name
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket private: %w", err), l.Close())
	}
	return l, nil
}

// DialLocal connects to the hub that runs over dir.
func DialLocal(ctx context.Context, dir string) (net.Conn, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// localMux is the API with full authority, and what only the owner of the process needs.
func (a *App) localMux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", a.LocalAPI())
	mux.HandleFunc("POST /debug/gc", collectGarbage)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// collectGarbage returns memory to the system and tells what the process uses.
func collectGarbage(w http.ResponseWriter, _ *http.Request) {
	runtime.GC()         // pools are emptied by the second collection after their last use
	debug.FreeOSMemory() // which this begins with
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(m) // the caller went away
}
