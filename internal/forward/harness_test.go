package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// patience is how long a test waits for what should happen at once.
const patience = 60 * time.Second

// smallLimits as Config.Max asks for small batches and a small window.
const smallLimits = 63

// world is a life of the hub: a store, a log, devices and a Manager.
type world struct {
	dir     string
	st      *store.Store
	log     *history.Log
	devices *registry.Registry
	m       *Manager
	ids     []signalbox.DeviceID
	start   signalbox.Position // the log's end when it began
	target  func(spec *Spec, trusted bool) (Target, error)
	end     func()
}

// begin opens a hub in dir with the forwarders of file; names are devices that there are.
func begin(tb testing.TB, dir string, cfg Config, names []string, targets func(spec *Spec, trusted bool) (Target, error)) *world {
	tb.Helper()
	w := &world{dir: dir, target: targets}
	var err error
	// The write-ahead file stays, so that the files can be copied one after the other.
	if w.st, err = store.Open(context.Background(), store.Config{Dir: dir, CheckpointBytes: 1 << 40}); err != nil {
		tb.Fatal(err)
	}
	if w.log, err = history.Open(tb.Context(), history.Config{TailEntries: 5000, MaxWait: 5 * time.Millisecond}, w.st); err != nil {
		tb.Fatal(err)
	}
	w.devices = registry.New(w.st, slog.New(slog.DiscardHandler))
	if err := w.devices.Load(tb.Context(), w.log); err != nil {
		tb.Fatal(err)
	}
	keys, err := auth.OpenKeys(dir + "/signalbox.key")
	if err != nil {
		tb.Fatal(err)
	}
	w.m, err = New(tb.Context(), cfg, Parts{
		Log: w.log, Devices: w.devices, Store: w.st, Seal: keys.Seal, Unseal: keys.Unseal,
		Targets: func(spec *Spec, trusted bool, _ []netip.Prefix) (Target, error) { return w.target(spec, trusted) },
	})
	if err != nil {
		tb.Fatal(err)
	}
	if cfg.Max == smallLimits {
		w.m.limits = limits{batch: 7, window: 20, far: 10, ahead: 5}
	}
	w.start = w.log.Committed()
	ctx, cancel := context.WithCancel(context.Background())
	logged := make(chan error, 1)
	go func() { logged <- w.log.Run(ctx, patience) }()
	for _, name := range names {
		if w.devices.Find(name) == nil {
			typ := "box"
			if name[0] == 's' {
				typ = "sensor"
			}
			if _, err := w.devices.Add(tb.Context(), registry.NewDevice{Name: name, Type: typ}); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for _, name := range names {
		w.ids = append(w.ids, w.devices.Find(name).ID)
	}
	fctx, fcancel := context.WithCancel(context.Background())
	forwarded := make(chan error, 1)
	go func() { forwarded <- w.m.Run(fctx) }()
	w.end = sync.OnceFunc(func() {
		fcancel()
		if err := <-forwarded; err != nil {
			tb.Errorf("the forwarders ended with %v", err)
		}
		cancel()
		if err := <-logged; err != nil {
			tb.Errorf("the log ended with %v", err)
		}
		if err := w.st.Close(); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(w.end)
	return w
}

// put appends telemetry and gives its position.
func (w *world) put(tb testing.TB, device int, body string) signalbox.Position {
	tb.Helper()
	return w.append(tb, &signalbox.Entry{Device: w.ids[device], Kind: signalbox.EntryTelemetry, Body: []byte(body)})
}

func (w *world) append(tb testing.TB, e *signalbox.Entry) signalbox.Position {
	tb.Helper()
	for {
		err := w.log.Append(e, history.Acked)
		if err == nil {
			return e.Position
		}
		if !errors.Is(err, history.ErrFull) {
			tb.Fatal(err)
		}
		w.wait(tb, w.log.Head())
	}
}

func (w *world) wait(tb testing.TB, p signalbox.Position) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.log.Wait(ctx, p); err != nil {
		tb.Fatal(err)
	}
}

// settled waits until a forwarder has settled everything up to p.
func (w *world) settled(tb testing.TB, name string, p signalbox.Position) Status {
	tb.Helper()
	return w.until(tb, name, fmt.Sprintf("settled up to %d", p), func(s *Status) bool { return s.Cursor >= p })
}

// until waits until a forwarder's status is as ok wants it.
func (w *world) until(tb testing.TB, name, what string, ok func(*Status) bool) Status {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		s, err := w.m.Get(name)
		if err != nil {
			tb.Fatal(err)
		}
		if ok(&s) {
			return s
		}
		if time.Now().After(end) {
			tb.Fatalf("the forwarder is not %s: %+v", what, s)
		}
	}
}

// copied copies the database as it is at the moment: what a kill leaves.
func (w *world) copied(tb testing.TB) string {
	tb.Helper()
	to := tb.TempDir()
	for _, name := range []string{"signalbox.db", "signalbox.db-wal", "signalbox.key"} {
		data, err := os.ReadFile(w.dir + "/" + name)
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(to+"/"+name, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return to
}

// discard is a target that takes everything.
type discard struct {
	settled func(signalbox.Position)
	n       int
	bytes   int
}

func (d *discard) Open(_ context.Context, settled func(signalbox.Position)) (Sink, error) {
	d.settled = settled
	return d, nil
}

func (d *discard) Send(_ context.Context, batch []Message) error {
	for i := range batch {
		d.bytes += len(batch[i].Body)
	}
	d.n += len(batch)
	d.settled(batch[len(batch)-1].Position)
	return nil
}

func (d *discard) Flush(context.Context) error { return nil }
func (d *discard) Broken() <-chan struct{}     { return nil }
func (d *discard) Err() error                  { return nil }
func (d *discard) Close() error                { return nil }

// only gives one target for all specs.
func only(t Target) func(*Spec, bool) (Target, error) {
	return func(*Spec, bool) (Target, error) { return t, nil }
}
