package live_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/history"
	"signalbox/internal/live"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// fakeLog is a log in memory whose commits the test makes.
type fakeLog struct {
	bus *bus.Bus
	now func() time.Time

	mu        sync.Mutex
	entries   []signalbox.Entry // position 1 first
	committed signalbox.Position
	changed   chan struct{} // closed with each commit
	holding   bool          // no commits, and reading waits
	reads     int
	fail      error
	dropped   map[signalbox.Position]bool // by retention
	gap       history.Gap                 // how far that went; After is not used
}

func newFakeLog(b *bus.Bus) *fakeLog {
	return &fakeLog{bus: b, now: time.Now, changed: make(chan struct{})}
}

const epoch = "k3f9q2"

func (l *fakeLog) AppendCursor(dst []byte, p signalbox.Position) []byte {
	return strconv.AppendUint(append(dst, epoch+"-"...), uint64(p), 10)
}

func cursor(p signalbox.Position) string { return epoch + "-" + strconv.FormatUint(uint64(p), 10) }

// Place knows the words lost and foreign besides its own cursors.
func (l *fakeLog) Place(cursor string) (history.Place, error) {
	switch cursor {
	case "lost":
		return history.Place{Position: 1, Fate: history.Lost}, nil
	case "foreign":
		return history.Place{Fate: history.Foreign}, nil
	}
	text, ok := strings.CutPrefix(cursor, epoch+"-")
	p, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil {
		return history.Place{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_cursor", "%q is no cursor", cursor)
	}
	return history.Place{Position: signalbox.Position(p)}, nil
}

func (l *fakeLog) Since(ctx context.Context, q history.SinceQuery, yield func(*signalbox.Entry) error) error {
	l.mu.Lock()
	l.reads++
	until, fail, entries := q.Until, l.fail, l.entries
	if until == 0 || until > l.committed {
		until = l.committed
	}
	l.mu.Unlock()
	if fail != nil {
		return fail
	}
	if err := l.tellGap(&q, history.Gap{}, until); err != nil {
		return err
	}
	l.mu.Lock()
	told := l.gap
	l.mu.Unlock()
	var lent signalbox.Entry
	for p := q.After + 1; p <= until; p++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := &entries[p-1]
		if l.isDropped(p) {
			continue
		}
		if !q.Events && e.Kind != signalbox.EntryTelemetry || e.Kind > signalbox.EntryAlert {
			continue
		}
		body := append(lent.Body[:0], e.Body...)
		lent = *e
		lent.Body = body
		if err := yield(&lent); err != nil {
			return err
		}
		for i := range body {
			body[i] = '#' // it was lent
		}
	}
	return l.tellGap(&q, told, until)
}

// tellGap tells of what retention dropped since told.
func (l *fakeLog) tellGap(q *history.SinceQuery, told history.Gap, until signalbox.Position) error {
	l.mu.Lock()
	g := history.Gap{After: q.After, Telemetry: min(l.gap.Telemetry, until), Events: min(l.gap.Events, until)}
	l.mu.Unlock()
	if g.Telemetry <= max(told.Telemetry, q.After) {
		g.Telemetry = 0
	}
	if !q.Events || g.Events <= max(told.Events, q.After) {
		g.Events = 0
	}
	if q.Gap == nil || g.Telemetry == 0 && g.Events == 0 {
		return nil
	}
	return q.Gap(g)
}

func (l *fakeLog) isDropped(p signalbox.Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped[p]
}

// drop is retention.
func (l *fakeLog) drop(list ...signalbox.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped == nil {
		l.dropped = map[signalbox.Position]bool{}
	}
	for _, p := range list {
		l.dropped[p] = true
		if l.entries[p-1].Kind.IsTelemetry() {
			l.gap.Telemetry = max(l.gap.Telemetry, p)
		} else {
			l.gap.Events = max(l.gap.Events, p)
		}
	}
}

func (l *fakeLog) Wait(ctx context.Context, p signalbox.Position) error {
	for {
		l.mu.Lock()
		done, changed := l.committed >= p, l.changed
		l.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *fakeLog) Head() signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return signalbox.Position(len(l.entries))
}

// add appends an entry and announces it, as the log does.
func (l *fakeLog) add(kind signalbox.EntryKind, device signalbox.DeviceID, body string) signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	micros := l.now().UnixMicro()
	e := signalbox.Entry{Position: signalbox.Position(len(l.entries) + 1), Device: device, Kind: kind, ReceivedMicros: micros, TimeMicros: micros, Body: []byte(body)}
	l.entries = append(l.entries, e)
	if kind <= signalbox.EntryAlert {
		l.bus.Publish(&e)
	}
	if !l.holding {
		l.commit()
	}
	return e.Position
}

func (l *fakeLog) all() []signalbox.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries
}

// announced is the position of the last entry that was.
func (l *fakeLog) announced() signalbox.Position {
	for _, e := range slices.Backward(l.all()) {
		if e.Kind <= signalbox.EntryAlert {
			return e.Position
		}
	}
	return 0
}

// commit is called with the lock held.
func (l *fakeLog) commit() {
	l.committed = signalbox.Position(len(l.entries))
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLog) hold(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holding = on; !on {
		l.commit()
	}
}

// fleet is a registry with devices dev001 and so on, of type box, or station for each third.
func fleet(tb testing.TB, n int) *registry.Registry {
	tb.Helper()
	st, err := store.Open(context.Background(), store.Config{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = st.Close() })
	r := registry.New(st, nil)
	list := make([]registry.NewDevice, n)
	for i := range list {
		kind := "box"
		if i%3 == 2 {
			kind = "station"
		}
		list[i] = registry.NewDevice{Name: fmt.Sprintf("dev%03d", i+1), Type: kind}
	}
	if _, err := r.AddAll(context.Background(), list, nil); err != nil {
		tb.Fatal(err)
	}
	return r
}

// rig is a hub over a fake log.
type rig struct {
	bus     bus.Bus
	log     *fakeLog
	devices *registry.Registry
	hub     *live.Hub
	end     func()
}

func command(body []byte) (string, []byte, error) {
	if string(body) == "broken" {
		return "", nil, errors.New("it is broken")
	}
	return "", body, nil
}

func newRig(tb testing.TB, devices *registry.Registry, cfg live.Config) *rig {
	tb.Helper()
	r := &rig{devices: devices}
	r.log = newFakeLog(&r.bus)
	r.hub = live.New(cfg, live.Parts{Log: r.log, Bus: &r.bus, Devices: devices, Command: command})
	return r
}

// run runs the hub until end is called or the test ends.
func (r *rig) run(tb testing.TB) *rig {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.hub.Run(ctx) }()
	r.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(r.end)
	return r
}

// event is one event of a transcript.
type event struct {
	ID, Name string // of Server-Sent Events
	Raw      string

	Kind     string             `json:"kind"`
	Cursor   string             `json:"cursor"`
	Position signalbox.Position `json:"position"`
	Device   string             `json:"device"`
	Received string             `json:"received"`
	Time     string             `json:"time"`
	Object   json.RawMessage    `json:"object"`
	Presence json.RawMessage    `json:"presence"`
	Command  json.RawMessage    `json:"command"`
	State    *signalbox.State   `json:"state"`
	Devices  *int               `json:"devices"`
	Missed   int64              `json:"missed"`
	After    string             `json:"after"`
	Until    string             `json:"until"`
	Reason   string             `json:"reason"`
}

// place is the position of the event's cursor.
func (e *event) place(tb testing.TB) signalbox.Position {
	tb.Helper()
	return position(tb, e.Cursor)
}

func position(tb testing.TB, cursor string) signalbox.Position {
	tb.Helper()
	p, err := strconv.ParseUint(strings.TrimPrefix(cursor, epoch+"-"), 10, 64)
	if err != nil {
		tb.Errorf("the cursor %q: %v", cursor, err)
	}
	return signalbox.Position(p)
}

// decode takes a block apart.
func decode(tb testing.TB, f live.Format, block []byte) (events []event) {
	tb.Helper()
	var texts []string
	if f == live.SSE {
		for part := range strings.SplitSeq(strings.TrimSuffix(string(block), "\n\n"), "\n\n") {
			texts = append(texts, part)
		}
	}
	for f == live.Frames && len(block) > 0 {
		if block[0] != 0x81 || len(block) < 2 || block[1] > 127 {
			tb.Fatalf("% x does not begin with a text frame", block[:min(len(block), 16)])
		}
		n, head := uint64(block[1]), 2
		switch n {
		case 126:
			n, head = uint64(binary.BigEndian.Uint16(block[2:])), 4
			if n < 126 {
				tb.Errorf("a length of %d in two bytes", n)
			}
		case 127:
			n, head = binary.BigEndian.Uint64(block[2:]), 10
			if n < 1<<16 {
				tb.Errorf("a length of %d in eight bytes", n)
			}
		}
		if uint64(len(block)-head) < n {
			tb.Fatalf("a frame of %d bytes has %d", n, len(block)-head)
		}
		texts = append(texts, string(block[head:head+int(n)]))
		block = block[head+int(n):]
	}
	for _, text := range texts {
		var e event
		data := text
		if f == live.SSE {
			for line := range strings.SplitSeq(text, "\n") {
				name, value, _ := strings.Cut(line, ": ")
				switch name {
				case "event":
					e.Name = value
				case "id":
					e.ID = value
				case "data":
					data = value
				default:
					tb.Errorf("the line %q of an event", line)
				}
			}
		}
		e.Raw = data
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			tb.Fatalf("%q: %v", data, err)
		}
		if f == live.SSE && (e.Name != e.Kind || e.ID != e.Cursor) {
			tb.Errorf("event %q with id %q says %s", e.Name, e.ID, data)
		}
		events = append(events, e)
	}
	return events
}

// viewer is a viewer with what it got.
type viewer struct {
	*live.Viewer
	tb     testing.TB
	format live.Format
	events []event
	blocks int
}

func (r *rig) join(tb testing.TB, o live.Options) *viewer {
	tb.Helper()
	v, err := r.hub.Join(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(v.Close)
	return &viewer{Viewer: v, tb: tb, format: o.Format}
}

// more takes one block; false when none comes within wait.
func (v *viewer) more(wait time.Duration) bool {
	v.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	block, err := v.Next(ctx)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return false
	}
	if err != nil {
		v.tb.Error(err)
		return false
	}
	if len(block) == 0 {
		v.tb.Error("an empty block")
	}
	v.blocks++
	v.events = append(v.events, decode(v.tb, v.format, block)...)
	return true
}

const testPatience = 30 * time.Second

// until takes blocks until enough says so.
func (v *viewer) until(what string, enough func() bool) {
	v.tb.Helper()
	for !enough() {
		if !v.more(testPatience) {
			v.tb.Fatalf("waited for %s; there are %s", what, v.brief())
		}
	}
}

func (v *viewer) count(n int) {
	v.tb.Helper()
	v.until(strconv.Itoa(n)+" events", func() bool { return len(v.events) >= n })
}

// brief shows the events in short.
func (v *viewer) brief() string {
	var b strings.Builder
	for i, e := range v.events {
		if i > 0 {
			b.WriteByte(' ')
		}
		switch e.Kind {
		case "telemetry", "presence", "command", "alert":
			fmt.Fprintf(&b, "%s%d", e.Kind[:1], e.Position)
		case "state":
			fmt.Fprintf(&b, "state:%s@%d", e.State.Device, e.Position)
		case "ready":
			fmt.Fprintf(&b, "ready@%d", e.place(v.tb))
		case "lagged":
			fmt.Fprintf(&b, "%s(%s,%s]:%d", e.Reason, strings.TrimPrefix(e.After, epoch+"-"), strings.TrimPrefix(e.Until, epoch+"-"), e.Missed)
		}
	}
	return b.String()
}

// got compares brief with want.
func (v *viewer) got(want string) {
	v.tb.Helper()
	if got := v.brief(); got != want {
		v.tb.Errorf("got  %s\nwant %s", got, want)
	}
}
