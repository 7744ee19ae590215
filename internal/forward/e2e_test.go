package forward_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/forward"
	"signalbox/internal/forward/target"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// TestOverTCP forwards to a real receiver, which acknowledges, goes away and comes back.
func TestOverTCP(t *testing.T) {
	const messages = 5000
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	devices := registry.New(st, slog.New(slog.DiscardHandler))
	if err := devices.Load(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	keys, err := auth.OpenKeys(dir + "/signalbox.key")
	if err != nil {
		t.Fatal(err)
	}
	spec := forward.Spec{Name: "to", To: "tcp://" + listener.Addr().String(), Ack: true, Backoff: forward.Backoff{Min: 10 * time.Millisecond}}
	m, err := forward.New(t.Context(), forward.Config{File: []forward.Spec{spec}}, forward.Parts{
		Log: log, Devices: devices, Store: st, Seal: keys.Seal, Unseal: keys.Unseal,
		Targets: func(spec *forward.Spec, trusted bool, allow []netip.Prefix) (forward.Target, error) {
			return target.New(spec, trusted, allow, "/signalbox/test", slog.New(slog.DiscardHandler))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	logCtx, endLog := context.WithCancel(context.Background())
	var logging sync.WaitGroup
	logging.Go(func() { _ = log.Run(logCtx, time.Minute) })
	d, err := devices.Add(t.Context(), registry.NewDevice{Name: "box1", Type: "box"})
	if err != nil {
		t.Fatal(err)
	}
	work.Go(func() { _ = m.Run(ctx) })

	got := make(chan error, 1)
	work.Go(func() { got <- receive(listener, messages) })
	for i := range messages {
		e := signalbox.Entry{Device: d.ID, Kind: signalbox.EntryTelemetry, Body: fmt.Appendf(nil, `{"n":%d}`, i)}
		if err := log.Append(&e, history.Acked); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		s, err := m.Get("to")
		t.Errorf("not everything arrived: %+v, %v", s, err)
	}
	cancel()
	_ = listener.Close()
	work.Wait()
	endLog()
	logging.Wait()
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// receive takes messages in order, breaks connections off, and acknowledges from time to time.
func receive(listener net.Listener, messages int) error {
	next := int64(0)
	for next < int64(messages) {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(conn)
		for taken := 0; taken < 700 && next < int64(messages) && lines.Scan(); taken++ {
			line := lines.Bytes()
			n, again := gjson.GetBytes(line, "object.n").Int(), gjson.GetBytes(line, "redelivered").Bool()
			switch {
			case n > next || n < next && !again:
				return fmt.Errorf("got %s, want number %d", line, next)
			case n == next:
				next++
			}
			if taken%50 == 0 {
				if _, err := fmt.Fprintf(conn, "%s\n", gjson.GetBytes(line, "cursor").Str); err != nil {
					break
				}
			}
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}
