package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
)

// sinkFarewell is how long connections get to end when the sink stops.
const sinkFarewell = 2 * time.Second

// RunSink runs the sink until in ends or ctx does: a WebSocket server on the hub's own transport that upgrades
// everything and discards every message, the limit to compare a hub with. It prints its address as one line, then
// «collected» for each line of in, after a garbage collection that gives memory back.
func RunSink(ctx context.Context, listen string, in io.Reader, out io.Writer) (err error) {
	if _, err := openFiles(); err != nil {
		return err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("the sink cannot listen on %s: %w", listen, err)
	}
	group, err := loop.New(loop.Config{})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- group.Serve(ctx, ln, ws.NewServer(ws.Config{}, discard{})) }()
	defer func() {
		cancel()
		farewell, done := context.WithTimeout(context.WithoutCancel(ctx), sinkFarewell)
		defer done()
		closing := group.Close(farewell)
		if errors.Is(closing, context.DeadlineExceeded) {
			closing = nil // they were cut, which is all right for a sink
		}
		err = errors.Join(err, <-served, closing)
	}()
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for ctx.Err() == nil && lines.Scan() {
		runtime.GC()
		debug.FreeOSMemory()
		if _, err := fmt.Fprintln(out, "collected"); err != nil {
			return err
		}
	}
	return lines.Err()
}

// discard is handler and endpoint in one: it keeps nothing.
type discard struct{}

// Upgrade implements ws.Handler.
func (discard) Upgrade(*ws.Request) (ws.Endpoint, *ws.Refusal) { return discard{}, nil }

// Opened implements ws.Endpoint.
func (discard) Opened(*ws.Conn) {}

// Receive implements ws.Endpoint.
func (discard) Receive(*ws.Conn, bool, []byte) time.Duration { return 0 }

// Tick implements ws.Endpoint.
func (discard) Tick(*ws.Conn, time.Time) {}

// Closed implements ws.Endpoint.
func (discard) Closed(*ws.Conn, error) {}
