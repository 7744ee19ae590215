package compat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"signalbox"
	"signalbox/internal/compat"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/replay"
	"signalbox/internal/store"
)

// reading is the frame of a reading of 2023-07-10 12:00:00 UTC and i seconds, by the clock of
// Asia/Shanghai.
func reading(i int, temp string) string {
	at := time.Date(2023, 7, 10, 20, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second)
	return `{"state": "OK", "type": "new_data", "response": {"time": "` + at.Format("2006-01-02 15:04:05") + `", "temp": "` + temp + `"}}`
}

// readings appends n messages of env01 without waiting for the disk; from numbers them.
func (h *chain) readings(from, n int) {
	h.t.Helper()
	begin := time.Date(2023, 7, 10, 12, 0, 0, 0, time.UTC)
	for i := from; i < from+n; i++ {
		e := signalbox.Entry{
			Device: h.devices.Find("env01").ID, Kind: signalbox.EntryTelemetry, TimeMicros: begin.Add(time.Duration(i) * time.Second).UnixMicro(),
			Body: fmt.Appendf(nil, `{"temp":%d.5}`, i),
		}
		must(h.t, h.log.Append(&e, history.Soon))
	}
}

func TestEveryViewerGetsEachReading(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 60 << 10 // all of them, while a viewer waits for the processor
	h := startChain(t, cfg)
	const n = 400
	a, b := h.open(h.live), h.open(h.live)
	a.say("realtime")
	b.say("realtime")
	h.watching(2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.readings(0, n)
	}()
	for i := range n {
		want := reading(i, fmt.Sprintf("%d.5", i))
		a.hears(want)
		b.hears(want)
	}
	<-done
	s := h.viewers.Stats()
	h.eventually("all are counted", func() bool { return s.Delivered.Load() == 2*n }) // behind what is counted
	if s.Readings.Load() != n || s.Slow.Load() != 0 || s.Open.Load() != 2 {
		t.Errorf("%d readings, %d delivered, %d slow, %d open", s.Readings.Load(), s.Delivered.Load(), s.Slow.Load(), s.Open.Load())
	}
	must(t, a.conn.Close(websocket.StatusNormalClosure, ""))
	h.watching(1)
	h.readings(n, 1)
	b.hears(reading(n, fmt.Sprintf("%d.5", n)))
}

func TestSlowViewer(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 4 << 10
	h := startChain(t, cfg)
	slow, quick := h.open(h.live), h.open(h.live)
	slow.say("realtime")
	quick.say("realtime")
	h.watching(2)
	i := 0
	for ; h.viewers.Stats().Slow.Load() == 0; i++ {
		if i > 100_000 {
			t.Fatal("nobody noticed that a viewer does not read")
		}
		h.readings(i, 1)
		quick.hears(reading(i, fmt.Sprintf("%d.5", i)))
	}
	h.readings(i, 1)
	quick.hears(reading(i, fmt.Sprintf("%d.5", i)))
	for k := 0; ; k++ {
		text, code := slow.next()
		if code == websocket.StatusTryAgainLater {
			break
		}
		if want := reading(k, fmt.Sprintf("%d.5", k)); code != 0 || text != want {
			t.Fatalf("the slow one read %q (close %d), want %s", text, code, want)
		}
	}
	h.watching(1)
	if s := h.viewers.Stats(); s.Slow.Load() != 1 || s.Open.Load() != 1 {
		t.Errorf("%d were slow, %d are open", s.Slow.Load(), s.Open.Load())
	}
}

func TestReadingsThatAreMissed(t *testing.T) {
	t.Parallel()
	h := startChain(t, viewersConfig(t))
	a, b, c := h.open(h.live), h.open(h.live), h.open(h.live)
	a.say("realtime")
	b.say("realtime")
	c.say("hello")
	c.hears(greeting...)
	h.watching(2)
	h.viewers.Lose(7)
	a.closes(websocket.StatusTryAgainLater)
	b.closes(websocket.StatusTryAgainLater)
	c.say("hello") // it watches nothing, and misses nothing
	c.hears(greeting...)
	if s := h.viewers.Stats(); s.Lost.Load() != 2 || s.Missed.Load() != 7 || s.Overflows.Load() != 1 {
		t.Errorf("%d lost, %d missed, %d overflows", s.Lost.Load(), s.Missed.Load(), s.Overflows.Load())
	}
}

func TestViewersThatAreRefused(t *testing.T) {
	t.Parallel()
	off := `{"state": "Error", "type": "error", "response": "This hub shows nothing to viewers; the section compat.viewers of its configuration turns them on."}`
	network := `{"state": "Error", "type": "error", "response": "Viewers of your network are not admitted; the setting compat.viewers.allow of the hub lists those that are."}`
	many := `{"state": "Error", "type": "error", "response": "The hub has as many viewers as are allowed at a time; try again later."}`
	tests := []struct {
		name   string
		change func(*compat.ViewersConfig)
		open   int // viewers that are there already
		words  string
		code   websocket.StatusCode
	}{
		{"viewers are off", func(c *compat.ViewersConfig) { c.Field = "" }, 0, off, websocket.StatusPolicyViolation},
		{"nobody is admitted", func(c *compat.ViewersConfig) { c.Allow = nil }, 0, network, websocket.StatusPolicyViolation},
		{"others are admitted", func(c *compat.ViewersConfig) {
			c.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")}
		}, 0, network, websocket.StatusPolicyViolation},
		{"too many", func(c *compat.ViewersConfig) { c.Max = 2 }, 2, many, websocket.StatusTryAgainLater},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := viewersConfig(t)
			tt.change(&cfg)
			h := startChain(t, cfg)
			for range tt.open {
				p := h.open(h.live)
				p.say("hello")
				p.hears(greeting...)
			}
			for _, try := range []struct{ address, text string }{{h.live, "hello"}, {h.live, "realtime"}, {h.past, "hello"}, {h.past, "database:0"}, {h.past, "x"}} {
				p := h.open(try.address)
				p.say(try.text)
				p.hears(tt.words)
				p.closes(tt.code)
			}
			s := h.viewers.Stats()
			h.eventually("the refused are counted and gone", func() bool {
				return s.Refused.Load()+s.Crowded.Load() == 5 && s.Open.Load() == int64(tt.open)
			})
			// A device is not concerned.
			p := h.open(h.live)
			p.say(`{"type":"auth","name":"esp01","password":"1234"}`)
			h.eventually("esp01 is online", func() bool { return h.devices.Find("esp01").View().Status == "online" })
		})
	}
}

func TestViewersOrigins(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		origin string
		change func(*compat.ViewersConfig)
		status int
	}{
		{"a program", "", nil, http.StatusSwitchingProtocols},
		{"a board", "file://", nil, http.StatusSwitchingProtocols},
		{"a page", "http://evil.example", nil, http.StatusForbidden},
		{"a page over TLS", "https://evil.example", nil, http.StatusForbidden},
		{"a page that is listed", "http://panel.example", func(c *compat.ViewersConfig) { c.Origins = []string{"http://panel.example"} }, http.StatusSwitchingProtocols},
		{"a page that is a file", "null", nil, http.StatusSwitchingProtocols},
		{"null is off", "null", func(c *compat.ViewersConfig) { c.NullOrigin = false }, http.StatusForbidden},
		{"null, where viewers are off", "null", func(c *compat.ViewersConfig) { c.Device = "" }, http.StatusForbidden},
		{"null, from where no viewers are admitted", "null", func(c *compat.ViewersConfig) { c.Allow = nil }, http.StatusForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := viewersConfig(t)
			if tt.change != nil {
				tt.change(&cfg)
			}
			h := startChain(t, cfg)
			for _, address := range []string{h.live, h.past} {
				p, status := h.visit(address, tt.origin)
				if status != tt.status {
					t.Errorf("the upgrade was answered with %d, want %d", status, tt.status)
				}
				if p != nil {
					p.say("hello")
					p.hears(greeting...)
				}
			}
			refused := h.viewers.Stats().OriginRefused.Load() + h.gateway.Stats().OriginRefused.Load()
			if want := int64(0); tt.status == http.StatusForbidden && refused != 2 || tt.status != http.StatusForbidden && refused != want {
				t.Errorf("%d were counted as refused", refused)
			}
		})
	}
}

// TestNullOriginIsNoDevice: a page of the origin null cannot log in as a device, whatever it says.
func TestNullOriginIsNoDevice(t *testing.T) {
	t.Parallel()
	h := startChain(t, viewersConfig(t))
	for i, text := range []string{`{"type":"auth","name":"esp01","password":"1234"}`, "hello there"} {
		p, _ := h.visit(h.live, "null")
		p.say(text)
		p.closes(websocket.StatusPolicyViolation)
		if n := h.gateway.Stats().OriginRefused.Load(); n != int64(i+1) {
			t.Errorf("%d were counted", n)
		}
	}
	if status := h.devices.Find("esp01").View().Status; status != "offline" {
		t.Errorf("esp01 is %s", status)
	}
}

func TestStopClosesViewers(t *testing.T) {
	t.Parallel()
	h := startChain(t, viewersConfig(t))
	live, past := h.open(h.live), h.open(h.past)
	live.say("realtime")
	past.say("hello")
	past.hears(greeting...)
	h.watching(1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.stop()
	}()
	live.closes(websocket.StatusGoingAway)
	past.closes(websocket.StatusGoingAway)
	<-ended
	if s := h.viewers.Stats(); s.Open.Load() != 0 || s.Watching.Load() != 0 {
		t.Errorf("%d are open, %d watch", s.Open.Load(), s.Watching.Load())
	}
}

func TestViewerThatFloods(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Ahead = 1 << 20
	h := startChain(t, cfg)
	said := int64(0)
	for _, address := range []string{h.live, h.past} {
		p := h.open(address)
		p.say("hello")
		p.hears(greeting...)
		before := h.viewers.Stats().Limited.Load()
		h.eventually("it is slowed down", func() bool {
			p.burst("what?", 50)
			said += 50
			return h.viewers.Stats().Limited.Load() > before
		})
		p.say("hello")
		p.hears(greeting...)
	}
	if n := h.viewers.Stats().Ignored.Load(); n != said {
		t.Errorf("%d texts were ignored of %d", n, said)
	}
}

// TestViewerThatAsksBeforeItReads gets all that it asked for.
func TestViewerThatAsksBeforeItReads(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 8 << 10
	h := startChain(t, cfg)
	for _, address := range []string{h.live, h.past} {
		p := h.open(address)
		const n = 250
		for range n {
			p.say("hello")
		}
		for range n {
			p.hears(greeting...)
		}
	}
	if n := h.viewers.Stats().Slow.Load(); n != 0 {
		t.Errorf("%d viewers were closed as slow", n)
	}
}

// TestViewerThatAsksAndDoesNotRead is closed after a while.
func TestViewerThatAsksAndDoesNotRead(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Patience = time.Millisecond
	h := startChain(t, cfg)
	for i, address := range []string{h.live, h.past} {
		p := h.open(address)
		for range 500 {
			p.say("hello")
		}
		h.eventually("it is closed", func() bool { return h.viewers.Stats().Slow.Load() == int64(i+1) })
		code := websocket.StatusCode(0)
		for code == 0 {
			_, code = p.next()
		}
		if code != websocket.StatusTryAgainLater {
			t.Errorf("it was closed with %d", code)
		}
	}
}

// TestViewerThatFloodsOn is closed, even if it has gone: what it sent would be read for hours.
func TestViewerThatFloodsOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		live       bool
	}{{"what means nothing", "x", true}, {"what means nothing, to history", "x", false}, {"questions", "database:0", false}, {"wrong questions", "database:x", false}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := viewersConfig(t)
			cfg.Ahead = 50
			h := startChain(t, cfg)
			address := h.past
			if tt.live {
				address = h.live
			}
			p := h.open(address)
			p.say("hello")
			p.hears(greeting...)
			p.burst(tt.text, 600)
			must(t, p.conn.CloseNow())
			h.eventually("it is closed", func() bool { return h.viewers.Stats().Flooded.Load() == 1 && h.viewers.Stats().Open.Load() == 0 })
		})
	}
}

// TestPageAfterPage: who waits for each answer may ask for as many as there are.
func TestPageAfterPage(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Ahead = 20
	h := startChain(t, cfg)
	p := h.open(h.past)
	for range 230 {
		p.say("database:0")
		p.hears(`{"state": "OK", "type": "empty", "response": ""}`, closing)
	}
	if n := h.viewers.Stats().Flooded.Load(); n != 0 {
		t.Errorf("%d viewers were closed", n)
	}
}

// TestNumbersOfManyDigits are no readings: one would be more than may wait for a viewer.
func TestNumbersOfManyDigits(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 4 << 10
	h := startChain(t, cfg)
	live, past := h.open(h.live), h.open(h.past)
	live.say("realtime")
	h.watching(1)
	longest := "1." + strings.Repeat("0", 998)
	for i, temp := range []string{longest + "0", "1." + strings.Repeat("0", 40_000), `"` + longest + `0"`, longest} {
		h.feed(signalbox.EntryTelemetry, "env01", fmt.Sprintf("2023-07-10T12:00:0%dZ", i), `{"temp":`+temp+`}`)
	}
	live.hears(reading(3, longest))
	past.say("database:0")
	past.hears(`{"state": "OK", "type": "old_data", "response": {"time": "2023-07-10 20:00:03", "temp": 1.0}}`, closing)
}

// TestViewersOfMappedNetworks: IPv4 addresses may be written as IPv6 ones.
func TestViewersOfMappedNetworks(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.0/104")}
	h := startChain(t, cfg)
	for _, address := range []string{h.live, h.past} {
		p := h.open(address)
		p.say("hello")
		p.hears(greeting...)
	}
}

func TestViewerThatSaysNothing(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Silence = time.Millisecond
	h := startChain(t, cfg)
	silent := h.open(h.past)
	silent.closes(websocket.StatusPolicyViolation)
}

func TestDeviceThatAppearsLater(t *testing.T) {
	t.Parallel()
	h := startChain(t, viewersConfig(t), "other", "esp01")
	live, past := h.open(h.live), h.open(h.past)
	live.say("realtime")
	h.watching(1)
	past.say("database:0")
	past.hears(`{"state": "OK", "type": "empty", "response": ""}`, closing)
	for range 3 {
		h.feed(signalbox.EntryTelemetry, "esp01", "2023-07-10T12:00:00Z", `{"temp":1}`)
		h.feed(signalbox.EntryTelemetry, "other", "2023-07-10T12:00:00Z", `{"temp":1}`)
		d, err := h.devices.Add(t.Context(), registry.NewDevice{Name: "env01", Type: "sensor", Secret: store.Secret{Kind: 1}})
		must(t, err)
		h.feed(signalbox.EntryTelemetry, "env01", "2023-07-10T12:00:00Z", `{"temp":25.8}`)
		h.feed(signalbox.EntryTelemetry, "esp01", "2023-07-10T12:00:00Z", `{"temp":1}`)
		h.feed(signalbox.EntryTelemetry, "env01", "2023-07-10T12:00:01Z", `{"temp":25.9}`)
		live.hears(reading(0, "25.8"), reading(1, "25.9"))
		past.say("database:1")
		past.hears(`{"state": "OK", "type": "old_data", "response": {"time": "2023-07-10 20:00:01", "temp": 25.9}}`, closing)
		// It is removed, and comes again under another number.
		must(t, h.devices.Remove(t.Context(), d, func() {}))
	}
}

func TestHistoryOfManyRows(t *testing.T) {
	t.Parallel()
	h := startChain(t, viewersConfig(t))
	h.readings(0, 45)
	h.feed(signalbox.EntryTelemetry, "other", "2023-07-10T12:00:00Z", `{"temp":1}`) // behind it all are on disk
	row := func(i int) string {
		return fmt.Sprintf(`{"state": "OK", "type": "old_data", "response": {"time": "2023-07-10 20:00:%02d", "temp": %d.5}}`, i, i)
	}
	p := h.open(h.past)
	for _, from := range []int{0, 20, 40, 1} { // all asked at once
		p.say(fmt.Sprintf("database:%d", from))
	}
	for _, from := range []int{0, 20, 40, 1} {
		for i := from; i < min(from+20, 45); i++ {
			p.hears(row(i))
		}
		p.hears(closing)
	}
	if s := h.viewers.Stats(); s.Asked.Load() != 4 || s.Rows.Load() != 65 || s.Faults.Load() != 0 {
		t.Errorf("%d questions, %d rows, %d faults", s.Asked.Load(), s.Rows.Load(), s.Faults.Load())
	}
}

func TestHistoryThatFails(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.AskTimeout = 3 * time.Second
	h := startChain(t, cfg)
	fault := func(words string) string {
		return `{"state": "Error", "type": "error", "response": "` + words + `"}`
	}
	p, other := h.open(h.past), h.open(h.past)
	h.answerWith(func(context.Context, signalbox.DeviceID, int64, int) ([]signalbox.Telemetry, error) {
		return nil, signalbox.Errorf(signalbox.KindUnavailable, "history_moved", "the device's history changed meanwhile; ask again")
	})
	p.say("database:0")
	p.hears(fault("the device's history changed meanwhile; ask again"), closing)
	h.answerWith(func(context.Context, signalbox.DeviceID, int64, int) ([]signalbox.Telemetry, error) {
		return nil, io.ErrUnexpectedEOF
	})
	p.say("database:0")
	p.hears(fault("History cannot be read now; the hub's log says more."), closing)
	h.answerWith(func(ctx context.Context, _ signalbox.DeviceID, _ int64, _ int) ([]signalbox.Telemetry, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	p.say("database:0")
	other.say("database:0", "database:0")
	p.hears(fault("History gave no answer within 3s; ask again later."), closing)
	h.answerWith(nil)
	for range 2 {
		if text, _ := other.next(); !strings.Contains(text, `"type": "e`) { // error, or empty again
			t.Errorf("heard %s", text)
		}
		other.hears(closing)
	}
	p.say("database:0")
	p.hears(`{"state": "OK", "type": "empty", "response": ""}`, closing)
	if n := h.viewers.Stats().Faults.Load(); n < 3 {
		t.Errorf("%d faults", n)
	}
}

// TestReplayIntoViewers plays history into those who watch.
func TestReplayIntoViewers(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 4 << 10
	h := startChain(t, cfg)
	const n = 500 // much more than an outbox takes
	h.readings(0, n)
	h.feed(signalbox.EntryTelemetry, "other", "2023-07-10T12:00:00Z", `{"temp":1}`)
	h.feed(signalbox.EntryTelemetry, "env01", "2023-07-10T12:00:00Z", `{"humidity":1}`)
	m := replay.New(replay.Config{History: h.log, NameOf: h.NameOf, Hub: "test"})
	s, err := m.Start(replay.Options{})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), viewersPatience)
	defer cancel()
	if err := m.Play(ctx, s.ID, h.viewers.ReplaySink(), replay.Resume{}, time.Minute); signalbox.CodeOf(err) != "replay_unmarked" {
		t.Errorf("a marked replay gave %v", err)
	}
	a, b := h.open(h.live), h.open(h.live)
	a.say("realtime")
	b.say("realtime")
	h.watching(2)
	s, err = m.Start(replay.Options{Unmarked: true})
	must(t, err)
	played := make(chan error, 1)
	go func() { played <- m.Play(ctx, s.ID, h.viewers.ReplaySink(), replay.Resume{}, time.Minute) }()
	for i := range n {
		a.hears(reading(i, fmt.Sprintf("%d.5", i)))
		b.hears(reading(i, fmt.Sprintf("%d.5", i)))
	}
	must(t, <-played)
	if slow := h.viewers.Stats().Slow.Load(); slow != 0 {
		t.Errorf("%d viewers were closed", slow)
	}
	cfg.Device = ""
	none := startChain(t, cfg)
	if err := none.viewers.ReplaySink().Deliver(ctx, &s, nil); signalbox.CodeOf(err) != "viewers_off" {
		t.Errorf("with viewers off: %v", err)
	}
}

// TestReplayWaitsForViewers: a replay does not run over a viewer that does not read at present.
func TestReplayWaitsForViewers(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.Outbox = 4 << 10
	h := startChain(t, cfg)
	p := h.open(h.live)
	p.say("realtime")
	h.watching(1)
	events := make([]replay.Event, 50_000)
	for i := range events {
		at := time.Date(2023, 7, 10, 12, 0, i, 0, time.UTC).UnixMicro()
		events[i] = replay.Event{Device: "env01", TimeMicros: at, Object: fmt.Appendf(nil, `{"temp":%d.5}`, i)}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.viewers.ReplaySink().Deliver(ctx, new(replay.Status), events) }()
	h.eventually("something was delivered", func() bool { return h.viewers.Stats().Delivered.Load() > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the replay ended with %v", err)
	}
	for i := range h.viewers.Stats().Delivered.Load() {
		p.hears(reading(int(i), fmt.Sprintf("%d.5", i)))
	}
}

func FuzzParseAsk(f *testing.F) {
	for _, text := range []string{"database:0", "database:20", "database:", "database:-1", "database:9223372036854775807", "database:9223372036854775808", "database:007", "databas", "hello", "database:1e3", "database:٣"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		row, asks, fits := compat.ParseAsk([]byte(text))
		digits, want := strings.CutPrefix(text, "database:")
		if asks != want {
			t.Fatalf("%q asks: %t", text, asks)
		}
		n, ok := new(big.Int).SetString(digits, 10)
		number := asks && ok && n.IsInt64() && strings.Trim(digits, "0123456789") == ""
		if fits != number || fits && row != n.Int64() {
			t.Fatalf("%q gives %d, %t; want %t", text, row, fits, number)
		}
	})
}

func FuzzReadingOf(f *testing.F) {
	for _, object := range []string{`{"temp":25.8}`, `{"temp":"25.8"}`, `{"temp":" 15.0 "}`, `{"temp":1e999}`, `{"temp":true}`, `{"temp":[1]}`, `{"temp":"0x1"}`, `[1]`, `{`, ``} {
		f.Add([]byte(object))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		spelled, value, ok := compat.ReadingOf(object, "temp")
		if !ok {
			return
		}
		same, err := strconv.ParseFloat(spelled, 64)
		if err != nil || same != value || math.IsInf(value, 0) || math.IsNaN(value) {
			t.Fatalf("%q gives %q and %g (%v)", object, spelled, value, err)
		}
	})
}
